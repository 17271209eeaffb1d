"""The short form of the chaos run, about two minutes: every kind of fault, twice."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.chaos.faults import CATALOGUE
from tests.chaos.picture import picture
from tests.chaos.report import table
from tests.chaos.run import Plan, perform


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [4, 5])
async def test_every_fault_once(tmp_path: Path, seed: int) -> None:
    """Nothing lost, doubled, out of order or foreign; every gap explained; nothing left behind."""
    plan = Plan(seed, each_once=2, length=0.25, rate=80, users=60, admins=6, slow=2, chat_changes=5)
    run = await perform(plan, tmp_path, print)
    print(table(run.outcome))
    assert run.outcome.passed, "see the table"
    assert {band.name for band in run.outcome.faults} == CATALOGUE.keys() - run.outcome.skipped
    assert run.outcome.told["recovered"] > 0
    assert ET.fromstring(picture(run)).tag.endswith("svg")
