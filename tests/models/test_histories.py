"""Histories that once went wrong, or that chance alone seldom finds, keep every promise."""

from __future__ import annotations

import pytest

from tests.models import histories_reading, histories_sessions  # noqa: F401 - they add theirs
from tests.models.histories import HISTORIES, History
from tests.models.world import world


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("history", HISTORIES, ids=lambda told: told.__name__)
def test_nothing_goes_wrong(history: History, seed: int) -> None:
    """See each of them; the seed is of the delays."""
    with world(seed) as on:
        history(on)
        assert on.wrong == []
