"""The ladder of deadlines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain.deadlines import deadlines


@given(st.floats(0.1, 3600), st.floats(0, 300))
def test_every_rung_leaves_room_for_the_one_below(timeout: float, delay: float) -> None:
    """Client close wait < drain < supervisor < process manager < orchestrator, for all settings."""
    ladder = deadlines(timeout, delay)
    assert 0 < ladder.client_close < timeout <= ladder.drain
    assert ladder.drain + 1 < ladder.supervisor_kill
    assert ladder.supervisor_kill + 1 < ladder.manager_kill
    assert ladder.manager_kill + 1 < ladder.orchestrator_kill


def test_the_defaults_are_what_the_operators_are_told() -> None:
    """Thirty seconds of drain: 35 for the supervisor, 40 for its manager, 45 for Kubernetes."""
    ladder = deadlines(30)
    assert (ladder.drain, ladder.supervisor_kill) == (30, 35)
    assert (ladder.manager_kill, ladder.orchestrator_kill) == (40, 45)


def test_announcing_not_ready_comes_on_top() -> None:
    """The delay before the drain moves every later rung."""
    assert deadlines(30, 10).supervisor_kill == 45
