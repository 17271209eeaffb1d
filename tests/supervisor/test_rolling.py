"""The rolling restart: the rules without a process."""

from __future__ import annotations

import signal

import pytest

from daisi_ws.domain.slots import Draining, Heartbeat, NotReady
from daisi_ws.supervisor.settings import Timings
from tests.supervisor.stage import TIMINGS, Stage

TERM, ABRT, KILL = signal.SIGTERM, signal.SIGABRT, signal.SIGKILL


def _rolling(workers: int = 2) -> Stage:
    stage = Stage(workers)
    stage.ready()
    stage.do(stage.fleet.roll(stage.now))
    return stage


def _roll_slot(stage: Stage, slot: int) -> None:
    old, new = stage.pid(slot), stage.successor(slot)
    stage.ready(new)
    assert stage.signals(old) == [TERM]
    stage.die(old)
    assert stage.pid(slot) == new


def test_slot_by_slot_the_successor_first() -> None:
    """Old ones are asked to leave only after their successor is ready, one slot at a time."""
    stage = _rolling()
    first, second = stage.pid(0), stage.pid(1)
    assert len(stage.alive) == 3
    assert not stage.sent
    new = stage.successor(0)
    stage.ready(new)
    assert stage.sent == [(first, TERM)]
    assert len(stage.alive) == 3, "the next slot waits until the old one is gone"
    stage.die(first)
    stage.ready(stage.successor(1))
    stage.die(second)
    assert stage.events()[-1] == "rolling restart done"
    assert len(stage.alive) == 2
    assert [life.lane for life in stage.forks] == [0, 0, 1, 1]


def test_request_while_one_runs_is_done_after_it_once() -> None:
    """Three more requests are one more restart."""
    stage = _rolling(1)
    for _ in range(3):
        stage.do(stage.fleet.roll(stage.now))
    _roll_slot(stage, 0)
    _roll_slot(stage, 0)
    assert len(stage.forks) == 3
    assert stage.events()[-1] == "rolling restart done"


def test_successor_that_fails_to_boot_aborts_and_the_old_ones_stay() -> None:
    """No worker is asked to leave, the fleet does not end, and the reason is said."""
    stage = _rolling()
    old = stage.pid(0), stage.pid(1)
    stage.fail_boot(stage.successor(0), "bad configuration")
    stage.pass_time(120)
    assert (stage.pid(0), stage.pid(1)) == old
    assert not stage.sent
    assert stage.exit_code is None
    assert len(stage.forks) == 3
    assert stage.line("rolling restart aborted").fields["problem"] == "bad configuration"


def test_successor_that_is_not_ready_in_time_aborts_and_leaves() -> None:
    """Its own word on why is in the line; it is drained, the old one is not."""
    stage = _rolling()
    old, new = stage.pid(0), stage.successor(0)
    stage.report(new, NotReady("redis is away"))
    stage.pass_time(TIMINGS.boot - 1)
    assert not stage.sent
    stage.pass_time(1)
    assert stage.sent == [(new, TERM)]
    assert "redis is away" in str(stage.line("rolling restart aborted").fields["problem"])
    assert stage.pid(0) == old
    stage.die(new)
    stage.pass_time(60)
    assert len(stage.forks) == 3


def test_successor_that_hangs_is_killed_and_aborts() -> None:
    """Silent after its first sign of life: SIGABRT, and its death ends the restart."""
    stage = _rolling(1)
    old, new = stage.pid(0), stage.successor(0)
    stage.report(new, Heartbeat())
    for _ in range(30):
        stage.now += 1
        stage.report(old, Heartbeat())
        stage.do(stage.fleet.tick(stage.now))
    assert stage.signals(new) == [ABRT]
    stage.die(new, signum=6)
    assert stage.events()[-1] == "rolling restart aborted"
    assert not stage.signals(old)


def test_restart_can_be_asked_for_again_after_an_abort() -> None:
    """The failed successor's lane is waited for; then it runs as if nothing had been."""
    stage = _rolling(1)
    new = stage.successor(0)
    stage.pass_time(TIMINGS.boot)
    stage.do(stage.fleet.roll(stage.now))
    assert len(stage.forks) == 2, "both lanes are in use"
    stage.die(new)
    assert len(stage.forks) == 3
    _roll_slot(stage, 0)
    assert stage.events()[-1] == "rolling restart done"


def test_request_queued_before_an_abort_still_runs() -> None:
    """It may have come with what repairs the first one."""
    stage = _rolling(1)
    stage.do(stage.fleet.roll(stage.now))
    stage.fail_boot(stage.successor(0))
    _roll_slot(stage, 0)
    assert stage.events()[-1] == "rolling restart done"


def test_old_worker_that_dies_while_its_successor_boots_is_replaced_by_it() -> None:
    """No third process; the restart goes on with the next slot when the successor is ready."""
    stage = _rolling()
    new = stage.successor(0)
    stage.die(stage.pid(0), signum=9)
    stage.pass_time(5)
    assert len(stage.forks) == 3
    stage.ready(new)
    assert stage.pid(0) == new
    assert stage.successor(1)


@pytest.mark.parametrize("how", ["dies", "late"])
def test_slot_that_lost_both_is_filled_again(how: str) -> None:
    """Old one dead, successor dead or late: aborted, and the slot still gets a worker."""
    stage = _rolling(1)
    new = stage.successor(0)
    stage.die(stage.pid(0), signum=9)
    if how == "dies":
        stage.die(new, signum=11)
        stage.pass_time(10)
        assert stage.pid(0) != new
    else:
        stage.pass_time(TIMINGS.boot + 10)
        assert stage.pid(0) == new
        assert not stage.signals(new)
    assert "rolling restart aborted" in stage.events()
    assert len(stage.alive) == 1


def test_slot_that_waits_for_its_retry_is_started_at_once() -> None:
    """There is no old one to wait for."""
    stage = Stage(1)
    stage.ready()
    for _ in range(8):
        stage.die(stage.pid(0), signum=11)
        stage.pass_time(10)
    stage.die(stage.pid(0), signum=11)
    stage.do(stage.fleet.roll(stage.now))
    stage.ready(stage.successor(0))
    assert stage.events()[-1] == "rolling restart done"
    stage.pass_time(20)
    assert len(stage.alive) == 1


def test_old_worker_that_does_not_leave_is_killed_and_the_restart_goes_on() -> None:
    """The drain deadline holds here too."""
    stage = _rolling()
    old = stage.pid(0)
    stage.ready(stage.successor(0))
    stage.pass_time(TIMINGS.kill)
    assert stage.signals(old) == [TERM, KILL]
    stage.die(old, signum=9)
    assert stage.successor(1)


def test_successor_that_dies_right_after_taking_over_aborts() -> None:
    """The other slots keep what works."""
    stage = _rolling()
    stage.ready(stage.successor(0))
    stage.die(stage.pid(0), signum=11)
    assert "rolling restart aborted" in stage.events()
    stage.pass_time(5)
    assert stage.fleet.slots[1].successor is None
    assert stage.pid(0) in stage.alive


def test_old_worker_that_drains_unasked_meanwhile_is_no_second_replacement() -> None:
    """The successor that boots already takes over."""
    stage = _rolling(1)
    old, new = stage.pid(0), stage.successor(0)
    stage.report(old, Draining())
    stage.pass_time(3)
    stage.die(old)
    stage.pass_time(3)
    assert len(stage.forks) == 2
    stage.ready(new)
    assert stage.pid(0) == new
    assert stage.events()[-1] == "rolling restart done"


def test_stop_ends_the_restart() -> None:
    """Old, successor and the rest are all drained; nothing is started any more."""
    stage = _rolling()
    stage.do(stage.fleet.roll(stage.now))
    everyone = set(stage.alive)
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    assert {pid for pid, signum in stage.sent if signum is TERM} == everyone
    stage.ready()
    stage.do(stage.fleet.roll(stage.now))
    for pid in everyone:
        stage.die(pid)
    assert stage.exit_code == 0
    assert len(stage.forks) == 3
    assert stage.refused_forks == 0


def test_stop_leaves_no_deadline_of_the_restart_behind() -> None:
    """While the workers drain, the loop does not spin for a successor that nobody waits for."""
    stage = Stage(1, Timings(kill=35, boot=5, silence=30))
    stage.ready()
    stage.do(stage.fleet.roll(stage.now))
    stage.do(stage.fleet.stop("SIGTERM", stage.now))
    stage.pass_time(10)
    wakeup = stage.fleet.next_wakeup()
    assert wakeup is not None
    assert wakeup > stage.now


def test_successor_that_hung_is_not_promoted_by_a_late_word() -> None:
    """It has been sent SIGABRT: what it says now does not count."""
    stage = _rolling(1)
    old, new = stage.pid(0), stage.successor(0)
    stage.report(new, Heartbeat())
    for _ in range(30):
        stage.now += 1
        stage.report(old, Heartbeat())
        stage.do(stage.fleet.tick(stage.now))
    stage.ready(new)
    assert stage.pid(0) == old
    assert not stage.signals(old)


def test_next_slot_waits_for_everyone_who_leaves_this_one() -> None:
    """The new worker drains unasked as well: both must be gone."""
    stage = _rolling(2)
    old, new = stage.pid(0), stage.successor(0)
    stage.ready(new)
    stage.report(new, Draining())
    stage.die(old)
    assert stage.fleet.slots[1].successor is None
    stage.die(new)
    assert stage.successor(1)


def test_successor_knows_no_predecessor_that_was_replaced_long_ago() -> None:
    """The lease of an earlier dead worker is its replacement's business."""
    stage = Stage(1)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    stage.pass_time(1)
    stage.ready()
    stage.do(stage.fleet.roll(stage.now))
    assert stage.forks[-1].predecessor is None


def test_silent_successor_leaves_no_deadline_behind() -> None:
    """It hangs exactly when its time is over; the loop waits for its end without spinning."""
    stage = _rolling(1)
    old = stage.pid(0)
    while not stage.signals(stage.successor(0)):
        stage.now += 1
        stage.report(old, Heartbeat())
        stage.do(stage.fleet.tick(stage.now))
    wakeup = stage.fleet.next_wakeup()
    assert wakeup is not None
    assert wakeup > stage.now


def test_pause_of_the_supervisor_does_not_abort() -> None:
    """The successor was frozen as well."""
    stage = _rolling(1)
    stage.pass_time(1)
    stage.now += 3600
    stage.do(stage.fleet.tick(stage.now))
    stage.pass_time(1)
    assert "rolling restart aborted" not in stage.events()
