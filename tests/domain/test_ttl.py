"""Times to live that follow activity."""

from __future__ import annotations

import pytest

from daisi_ws.domain.ttl import adaptive_ttl


@pytest.mark.parametrize(
    ("idle", "expected"), [(0, 30), (119.9, 30), (120, 15), (1e9, 15), (-1, 30)]
)
def test_activity_decides(idle: float, expected: float) -> None:
    """The longer time while activity counts, from then on the shorter one."""
    assert adaptive_ttl(idle, shortest=15, longest=30, threshold=120) == expected
