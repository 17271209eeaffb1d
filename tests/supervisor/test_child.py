"""The birth of a worker."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from daisi_ws.domain.slots import WorkerContext
from daisi_ws.supervisor.child import fork_worker
from daisi_ws.supervisor.signals import SignalPipe, signal_pipe


@pytest.fixture
def pipe() -> Iterator[SignalPipe]:
    """The signals of the parent."""
    with signal_pipe() as caught:
        yield caught


@pytest.fixture
def context() -> Iterator[WorkerContext]:
    """A context without real pipes."""
    with socket.socket() as listener:
        yield WorkerContext(0, 1, 7, 0, "h-0-7", None, 50051, "s", os.getpid(), -1, -1, listener)


def _end(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_result_is_the_exit_code(context: WorkerContext, pipe: SignalPipe) -> None:
    """What the worker returns, its parent sees."""
    assert _end(fork_worker(context, pipe.abandon, lambda _: 7)) == 7


@pytest.mark.parametrize(
    ("how", "code"),
    [(lambda _: sys.exit(5), 5), (lambda _: sys.exit("what"), 1), (lambda _: 1 // 0, 1)],
)
def test_exception_ends_the_child_in_the_child(
    context: WorkerContext, pipe: SignalPipe, how: Callable[[WorkerContext], int], code: int
) -> None:
    """It never unwinds into the parent's frames, which would live twice."""
    before = os.getpid()
    assert _end(fork_worker(context, pipe.abandon, how)) == code
    assert os.getpid() == before


def test_failure_before_the_worker_ends_the_child_too(
    context: WorkerContext, pipe: SignalPipe
) -> None:
    """A child that cannot drop what is its parent's is no worker."""

    def fail() -> None:
        raise OSError("cannot")

    assert _end(fork_worker(context, fail, lambda _: 0)) == 1
    assert pipe.read() in ([], [signal.SIGCHLD])


def test_signal_during_birth_hits_the_child_only(context: WorkerContext, pipe: SignalPipe) -> None:
    """Sent before the parent's handlers are dropped, it waits, and the parent never sees it."""

    def hit_then_drop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pipe.abandon()

    assert _end(fork_worker(context, hit_then_drop, lambda _: 0)) == -signal.SIGTERM
    assert set(pipe.read()) <= {signal.SIGCHLD}


def test_parent_keeps_its_signal_mask(context: WorkerContext, pipe: SignalPipe) -> None:
    """Whatever was blocked during the fork is let through again, here and in the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def mask(_: WorkerContext) -> int:
        return 0 if signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before else 9

    assert _end(fork_worker(context, pipe.abandon, mask)) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_child_whose_parent_is_gone_already_does_not_start(
    context: WorkerContext, pipe: SignalPipe
) -> None:
    """The parent died between fork and prctl: nobody will ever tell the child."""
    orphan = WorkerContext(0, 1, 7, 0, "h-0-7", None, 50051, "s", 1, -1, -1, context.listener)
    assert _end(fork_worker(orphan, pipe.abandon, lambda _: 0)) == 1
