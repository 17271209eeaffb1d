"""Start, stop, reload and heartbeats: the rules without a process."""

from __future__ import annotations

import signal

import pytest

from daisi_ws.domain.slots import Draining, Heartbeat, NotReady, Ready
from daisi_ws.supervisor.settings import Timings
from daisi_ws.supervisor.states import Forget
from tests.supervisor.stage import TIMINGS, Stage

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
ABRT, KILL = signal.SIGABRT, signal.SIGKILL


def test_start_fills_every_slot_with_its_own_pod_id() -> None:
    """One process a slot, named after host, slot and generation, in lane 0, without predecessor."""
    stage = Stage(3)
    assert [life.pod_id for life in stage.forks] == ["host-0-7", "host-1-7", "host-2-7"]
    assert {(life.lane, life.predecessor) for life in stage.forks} == {(0, None)}


def test_generations_grow_although_the_clock_stands_still() -> None:
    """A successor never gets its predecessor's pod ID."""
    stage = Stage(1)
    for _ in range(4):
        stage.ready()
        stage.die(stage.pid(0), signum=9)
        stage.pass_time(1)
    assert [life.generation for life in stage.forks] == [7, 8, 9, 10, 11]


def test_stop_drains_and_ends_with_0_when_all_are_gone() -> None:
    """SIGTERM to each worker once; the end comes with the last death, not before."""
    stage = Stage()
    stage.ready()
    first, second = stage.pid(0), stage.pid(1)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    assert stage.sent == [(first, TERM), (second, TERM)]
    stage.die(first)
    assert stage.exit_code is None
    stage.die(second)
    assert stage.exit_code == 0
    assert [say.fields["remaining"] for say in stage.said if say.event == "worker stopped"] == [
        1,
        0,
    ]


def test_worker_that_outlives_its_drain_is_killed_and_the_exit_code_says_so() -> None:
    """SIGKILL comes at the deadline, not before; exit code 4."""
    stage = Stage(1)
    stage.ready()
    pid = stage.pid(0)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.pass_time(TIMINGS.kill - 1)
    assert stage.signals(pid) == [TERM]
    stage.pass_time(1)
    assert stage.signals(pid) == [TERM, KILL]
    stage.die(pid, signum=9)
    assert stage.exit_code == 4


def test_second_stop_is_quick_and_third_is_immediate() -> None:
    """SIGINT with two seconds, then SIGKILL; a third request does not wait for that."""
    stage = Stage()
    stage.ready()
    first, second = stage.pid(0), stage.pid(1)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.do(stage.fleet.stop("SIGINT", stage.now))
    stage.pass_time(1)
    assert stage.signals(first) == [TERM, INT]
    stage.do(stage.fleet.stop("SIGINT", stage.now))
    assert stage.signals(first) == [TERM, INT, KILL]
    stage.do(stage.fleet.stop("SIGINT", stage.now))
    stage.pass_time(10)
    assert stage.signals(second) == [TERM, INT, KILL], "killed once only"


def test_quick_stop_kills_after_two_seconds() -> None:
    """A worker that ignores SIGINT is killed by the tick after two seconds."""
    stage = Stage(1)
    stage.ready()
    pid = stage.pid(0)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.pass_time(2)
    assert stage.signals(pid) == [TERM, INT, KILL]


def test_stop_between_a_death_and_its_replacement_starts_nothing_more() -> None:
    """The slot that waits for its retry stays empty, and the end does not wait for it."""
    stage = Stage(1)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    assert stage.exit_code == 0
    stage.pass_time(60)
    assert len(stage.forks) == 1


def test_stop_leaves_no_retry_to_wake_up_for() -> None:
    """While the others drain, the loop does not spin for a slot that stays empty."""
    stage = Stage(2)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.pass_time(5)
    wakeup = stage.fleet.next_wakeup()
    assert wakeup is not None
    assert wakeup > stage.now
    assert stage.refused_forks == 0


def test_stop_does_not_signal_a_worker_twice_that_is_leaving_already() -> None:
    """A second SIGTERM would be a quick stop to one that drains for its successor."""
    stage = Stage(1)
    stage.ready()
    old = stage.pid(0)
    stage.do(stage.fleet.roll(stage.now))
    stage.ready(stage.successor(0))
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    assert stage.signals(old) == [TERM]
    assert stage.signals(stage.pid(0)) == [TERM]


def test_silent_worker_is_hung_aborted_killed_and_replaced() -> None:
    """After the configured silence SIGABRT, a second later SIGKILL, then a new process."""
    stage = Stage(2)
    stage.ready()
    hung, lively = stage.pid(0), stage.pid(1)
    for _ in range(30):
        stage.now += 1
        stage.report(lively, Heartbeat())
        stage.do(stage.fleet.tick(stage.now))
    assert stage.signals(hung) == [ABRT]
    stage.pass_time(1, heartbeats=False)
    assert stage.signals(hung) == [ABRT, KILL]
    stage.die(hung, signum=9)
    stage.pass_time(1)
    assert stage.pid(0) not in (hung, lively)
    assert not stage.signals(lively)
    assert stage.line("worker hung").fields["silent_seconds"] == 30


def test_worker_that_is_stopped_for_twenty_seconds_is_left_alone() -> None:
    """SIGSTOP and SIGCONT are no reason to kill."""
    stage = Stage(1)
    stage.ready()
    for _ in range(5):
        stage.pass_time(20, heartbeats=False)
        stage.pass_time(1)
    assert stage.sent == []


def test_worker_without_first_sign_of_life_has_the_boot_time() -> None:
    """Imports may take longer than a heartbeat may be silent."""
    stage = Stage(1)
    pid = stage.pid(0)
    stage.pass_time(TIMINGS.boot - 1, heartbeats=False)
    assert not stage.sent
    stage.pass_time(1, heartbeats=False)
    assert stage.signals(pid) == [ABRT]


def test_pause_of_the_supervisor_itself_is_not_held_against_the_workers() -> None:
    """After a gap (a frozen container) everyone has the whole silence and drain time again."""
    stage = Stage(1)
    stage.ready()
    stage.pass_time(1)
    stage.now += 3600
    stage.do(stage.fleet.tick(stage.now))
    assert not stage.sent
    stage.pass_time(TIMINGS.silence - 2, heartbeats=False)
    assert not stage.sent
    stage.pass_time(2, heartbeats=False)
    assert stage.signals(stage.pid(0)) == [ABRT]


def test_word_that_came_during_the_pause_counts_once() -> None:
    """Read just before the tick, it gives no immunity for as long as the pause was."""
    stage = Stage(1)
    stage.ready()
    stage.pass_time(1)
    stage.now += 3600
    stage.report(stage.pid(0), Heartbeat())
    stage.do(stage.fleet.tick(stage.now))
    stage.pass_time(TIMINGS.silence, heartbeats=False)
    assert stage.signals(stage.pid(0)) == [ABRT]


def test_pause_of_the_supervisor_moves_the_drain_deadline() -> None:
    """A worker that was frozen with us can finish its drain."""
    stage = Stage(1)
    stage.ready()
    stage.pass_time(1)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.now += 3600
    stage.do(stage.fleet.tick(stage.now))
    assert stage.signals(stage.pid(0)) == [TERM]


def test_reload_reaches_running_workers_at_once_and_booting_ones_later() -> None:
    """SIGHUP would end a worker that has not installed its handlers: it waits for its report."""
    stage = Stage(2)
    first, second = stage.pid(0), stage.pid(1)
    stage.report(first, Heartbeat())
    stage.do(stage.fleet.reload(TIMINGS))
    assert stage.sent == [(first, HUP)]
    stage.report(second, NotReady("redis is away"))
    assert stage.sent == [(first, HUP), (second, HUP)]
    stage.ready()
    assert len(stage.sent) == 2


def test_reload_applies_new_timings() -> None:
    """The drain time of the new configuration counts for the next stop."""
    stage = Stage(1)
    stage.ready()
    stage.do(stage.fleet.reload(Timings(kill=3, boot=60, silence=30)))
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.pass_time(3)
    assert stage.signals(stage.pid(0)) == [HUP, TERM, KILL]


def test_leaving_worker_is_not_told_to_reload() -> None:
    """It keeps the settings that it drains with."""
    stage = Stage(1)
    stage.ready()
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.do(stage.fleet.reload(TIMINGS))
    assert stage.signals(stage.pid(0)) == [TERM]


def test_ready_and_not_ready_are_said_when_they_change() -> None:
    """A worker that starts or repeats itself does not fill the log."""
    stage = Stage(1)
    pid = stage.pid(0)
    for why in ("redis is away", "nats is away"):
        stage.report(pid, NotReady(why))
    stage.ready()
    stage.ready()
    for why in ("redis is away", "nats is away"):
        stage.report(pid, NotReady(why))
    stage.ready()
    assert stage.events() == [
        "worker started",
        "worker ready",
        "all workers ready",
        "worker not ready any more",
        "worker ready",
    ]


def test_worker_that_drains_unasked_is_replaced_at_once() -> None:
    """Somebody sent it SIGTERM: the successor takes the other lane and does not wait for it."""
    stage = Stage(1)
    stage.ready()
    old = stage.pid(0)
    stage.report(old, Draining())
    stage.pass_time(0.1)
    assert stage.pid(0) != old
    assert [life.lane for life in stage.forks] == [0, 1]
    assert not stage.signals(old)
    stage.die(old)
    stage.pass_time(1)
    assert len(stage.forks) == 2
    assert stage.line("worker stopped").level == "info"


def test_worker_that_drains_unasked_for_ever_is_killed() -> None:
    """Its drain has the same deadline as any other."""
    stage = Stage(1)
    stage.ready()
    old = stage.pid(0)
    stage.report(old, Draining())
    stage.pass_time(TIMINGS.kill + 1)
    assert stage.signals(old) == [KILL]


def test_both_lanes_in_use_delay_the_replacement_until_one_is_free() -> None:
    """A slot never has three processes, whoever drains unasked."""
    stage = Stage(1)
    stage.ready()
    first = stage.pid(0)
    stage.report(first, Draining())
    stage.pass_time(0.1)
    second = stage.pid(0)
    stage.ready(second)
    stage.report(second, Draining())
    stage.pass_time(5)
    assert set(stage.alive) == {first, second}
    wakeup = stage.fleet.next_wakeup()
    assert wakeup is not None
    assert wakeup > stage.now, "no spinning while waiting"
    stage.die(first)
    stage.pass_time(0.1)
    assert stage.forks[-1].lane == 0


def test_gone_process_is_forgotten_with_its_lane() -> None:
    """What remains of it (pipe, live gauges) is cleaned by slot and lane."""
    stage = Stage(2)
    stage.ready()
    pid = stage.pid(1)
    stage.die(pid, signum=9)
    assert stage.forgotten == [Forget(pid, 1, 0)]


def test_death_of_a_stranger_is_ignored() -> None:
    """As PID 1 the supervisor reaps children that are not its own."""
    stage = Stage(1)
    before = len(stage.said)
    stage.alive[4711] = stage.forks[0]
    stage.die(4711, 1)
    stage.report(4711, Ready())
    assert len(stage.said) == before
    assert len(stage.forks) == 1


@pytest.mark.parametrize("reason", ["heartbeat", "retry", "drain", "roll"])
def test_next_wakeup_is_when_something_is_due(reason: str) -> None:
    """A tick at that time acts, a tick just before does not."""
    stage = Stage(1)
    stage.ready()
    stage.do(stage.fleet.tick(stage.now))
    match reason:
        case "retry":
            stage.die(stage.pid(0), signum=9)
        case "drain":
            stage.do(stage.fleet.stop("SIGTERM", stage.now))
        case "roll":
            stage.fleet.reload(Timings(kill=35, boot=10, silence=30))
            stage.do(stage.fleet.roll(stage.now))
    due = stage.fleet.next_wakeup()
    assert due is not None
    stage.pass_time(due - stage.now - 0.001, heartbeats=False)
    before = (len(stage.sent), len(stage.forks))
    stage.pass_time(0.001, heartbeats=False)
    assert (len(stage.sent), len(stage.forks)) != before
