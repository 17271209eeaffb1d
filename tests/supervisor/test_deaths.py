"""Deaths: backoff, the first start, who gives up when."""

from __future__ import annotations

import pytest

from daisi_ws.domain.slots import NotReady
from daisi_ws.supervisor.core import BACKOFF_CAP_SECONDS
from daisi_ws.supervisor.deaths import CRASHES_AT_START, STABLE_SECONDS
from daisi_ws.supervisor.states import Death
from tests.supervisor.stage import TIMINGS, Stage


def _pause(stage: Stage) -> object:
    return stage.line("worker died").fields["next_in_seconds"]


def test_dead_worker_is_replaced_in_another_lane_with_the_dead_pod_as_predecessor() -> None:
    """The successor may remove the dead one's lease, and no taken port stops the slot."""
    stage = Stage(1)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    stage.pass_time(0.1)
    dead, new = stage.forks
    assert new.predecessor == dead.pod_id
    assert new.lane != dead.lane
    assert stage.line("worker died").fields["signal"] == "SIGKILL"


def test_clean_exit_leaves_no_lease_to_remove() -> None:
    """A worker that drained has given up its lease itself."""
    stage = Stage(1)
    stage.ready()
    stage.die(stage.pid(0), 0)
    stage.pass_time(0.1)
    assert stage.forks[1].predecessor is None


def test_lease_of_the_last_ready_worker_is_passed_on_until_one_is_ready() -> None:
    """A successor that dies at boot has cleaned nothing up."""
    stage = Stage(1)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    for _ in range(3):
        stage.pass_time(1)
        stage.die(stage.pid(0), signum=11)
    stage.pass_time(1)
    assert stage.forks[-1].predecessor == stage.forks[0].pod_id
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    stage.pass_time(2)
    assert stage.forks[-1].predecessor == stage.forks[-2].pod_id


def test_backoff_doubles_up_to_its_cap() -> None:
    """From 0.05 s to 10 s, measured with the longest jitter."""
    stage = Stage(1)
    stage.ready()
    pauses = []
    for _ in range(12):
        stage.die(stage.pid(0), signum=11)
        pauses.append(_pause(stage))
        stage.pass_time(BACKOFF_CAP_SECONDS)
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.4]
    assert pauses[-4:] == [10, 10, 10, 10]


def test_backoff_is_fully_jittered() -> None:
    """The pause is a random part of the whole, down to none."""
    stage = Stage(1, chance=0.0)
    stage.ready()
    stage.die(stage.pid(0), signum=9)
    assert _pause(stage) == 0
    stage.pass_time(0.001)
    assert len(stage.forks) == 2


@pytest.mark.parametrize(("short_by", "pause"), [(1, 0.8), (0, 0.05)])
def test_backoff_starts_anew_after_a_stable_life(short_by: float, pause: float) -> None:
    """Ready for thirty seconds, the next death is the first one."""
    stage = Stage(1)
    stage.ready()
    for _ in range(4):
        stage.die(stage.pid(0), signum=11)
        stage.pass_time(BACKOFF_CAP_SECONDS)
    stage.ready()
    stage.pass_time(STABLE_SECONDS - short_by)
    stage.die(stage.pid(0), signum=11)
    assert _pause(stage) == pause


def test_stable_life_counts_even_if_it_ended_not_ready() -> None:
    """A worker that lost Redis after an hour and died then does not wait ten seconds."""
    stage = Stage(1)
    stage.ready()
    for _ in range(6):
        stage.die(stage.pid(0), signum=11)
        stage.pass_time(BACKOFF_CAP_SECONDS)
    stage.ready()
    stage.pass_time(STABLE_SECONDS)
    stage.report(stage.pid(0), NotReady("redis is away"))
    stage.die(stage.pid(0), signum=9)
    assert _pause(stage) == 0.05


def test_boot_failure_at_the_first_start_ends_everything() -> None:
    """The others are drained, the exit code is what the worker named, nothing is retried."""
    stage = Stage(3)
    bad, other, third = (stage.pid(slot) for slot in range(3))
    stage.ready(other)
    stage.fail_boot(bad, exit_code=3)
    line = stage.line("worker cannot start")
    assert (line.fields["problem"], line.fields["hint"]) == ("no such stream", "make one")
    assert {pid for pid, _ in stage.sent} == {other, third}
    stage.pass_time(5)
    stage.die(other)
    stage.die(third)
    assert stage.exit_code == 3
    assert len(stage.forks) == 3


@pytest.mark.parametrize(("told", "exit_code"), [(2, 2), (3, 3), (0, 3)])
def test_exit_code_is_the_workers_word_unless_it_means_success(told: int, exit_code: int) -> None:
    """A failure never ends with 0."""
    stage = Stage(1)
    stage.fail_boot(stage.pid(0), exit_code=told)
    assert stage.exit_code == exit_code


def test_exit_code_3_without_a_report_is_a_boot_failure_too() -> None:
    """The report may be lost, the exit code is not."""
    stage = Stage(1)
    stage.die(stage.pid(0), 3)
    assert stage.exit_code == 3


def test_several_workers_that_fail_alike_end_once() -> None:
    """The second boot failure finds the fleet stopping."""
    stage = Stage(2)
    first, second = stage.pid(0), stage.pid(1)
    stage.fail_boot(first)
    stage.fail_boot(second)
    assert stage.exit_code == 3
    assert stage.events().count("worker cannot start") == 1


def test_crashes_in_a_row_at_the_first_start_end_everything() -> None:
    """Three crashes without a word are a worker that cannot start."""
    stage = Stage(2)
    stage.ready(stage.pid(1))
    for _ in range(CRASHES_AT_START):
        assert stage.exit_code is None
        stage.die(stage.pid(0), signum=11)
        stage.pass_time(1)
    assert len(stage.forks) == CRASHES_AT_START + 1
    stage.die(stage.pid(1))
    assert stage.exit_code == 3


def test_crash_after_a_long_wait_is_no_crash_at_start() -> None:
    """A worker that waits for Redis has booted; killed three times, it is still replaced."""
    stage = Stage(1)
    for _ in range(CRASHES_AT_START + 2):
        stage.report(stage.pid(0), NotReady("redis is away"))
        stage.pass_time(STABLE_SECONDS)
        stage.die(stage.pid(0), signum=9)
        stage.pass_time(BACKOFF_CAP_SECONDS)
    assert stage.exit_code is None
    assert len(stage.alive) == 1


def test_waiting_for_redis_is_no_boot_failure() -> None:
    """A worker that says NOT_READY for an hour is left alone."""
    stage = Stage(2)
    for pid in stage.alive:
        stage.report(pid, NotReady("redis is away"))
    stage.pass_time(3600)
    assert not stage.sent
    stage.ready()
    assert stage.events()[-1] == "all workers ready"


def test_boot_failure_of_a_slot_that_was_ready_is_retried() -> None:
    """A configuration broken later takes no running worker down."""
    stage = Stage(2)
    stage.ready()
    for _ in range(6):
        stage.fail_boot(stage.pid(0))
        stage.pass_time(BACKOFF_CAP_SECONDS)
    assert stage.exit_code is None
    assert not stage.sent
    assert len(stage.alive) == 2
    assert stage.line("worker died").fields["problem"] == "no such stream"


def test_slot_that_never_became_ready_no_longer_ends_others_that_serve_for_long() -> None:
    """The first start is over `boot` seconds after the first worker was ready."""
    stage = Stage(2)
    stage.ready(stage.pid(0))
    stage.report(stage.pid(1), NotReady("redis is away"))
    stage.pass_time(TIMINGS.boot)
    stage.fail_boot(stage.pid(1))
    stage.pass_time(1)
    assert stage.exit_code is None
    assert len(stage.alive) == 2


def test_fork_that_fails_is_retried_like_a_death() -> None:
    """No room for a process now may be room for one later."""
    room = True
    stage = Stage(1, fork_works=lambda _: room)
    stage.ready()
    room = False
    stage.die(stage.pid(0), signum=9)
    stage.pass_time(20)
    assert not stage.alive
    assert stage.line("worker died").fields["problem"] == "no room"
    room = True
    stage.pass_time(BACKOFF_CAP_SECONDS)
    assert len(stage.alive) == 1


def test_forks_that_fail_at_the_first_start_give_up() -> None:
    """Nothing ever started: the supervisor ends instead of trying for ever."""
    stage = Stage(2, fork_works=lambda _: False)
    stage.pass_time(5)
    assert stage.exit_code == 3


def test_death_says_how_it_ended() -> None:
    """Exit codes as numbers, signals by name where they have one."""
    assert Death(code=3).fields() == {"exit_code": 3}
    assert Death(signal=11).fields() == {"signal": "SIGSEGV"}
    assert Death(signal=63).fields() == {"signal": 63}
