"""Signals through the pipe."""

from __future__ import annotations

import os
import select
import signal

from daisi_ws.supervisor.signals import WATCHED, signal_pipe


def test_signals_are_queued_in_order_and_end_nothing() -> None:
    """Each arrives once, in order of arrival; the pipe wakes a waiting poll."""
    with signal_pipe() as pipe:
        assert pipe.read() == []
        sent = [signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM]
        for signum in sent:
            os.kill(os.getpid(), signum)
        assert select.select([pipe.read_end], [], [], 5)[0]
        assert pipe.read() == sent
        assert pipe.read() == []


def test_handlers_are_restored() -> None:
    """After the block everything is as before."""
    before = [signal.getsignal(signum) for signum in WATCHED]
    with signal_pipe():
        assert [signal.getsignal(signum) for signum in WATCHED] != before
    assert [signal.getsignal(signum) for signum in WATCHED] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_child_does_not_write_into_the_parents_pipe() -> None:
    """After `abandon` a signal to the child has its default effect and the parent hears nothing."""
    with signal_pipe() as pipe:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        child = os.fork()
        if child == 0:
            try:
                pipe.abandon()
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                os.kill(os.getpid(), signal.SIGHUP)
                os.kill(os.getpid(), signal.SIGUSR2)
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            finally:
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert set(pipe.read()) <= {signal.SIGCHLD}
