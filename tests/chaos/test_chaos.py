"""The short form of the chaos run: every cheap kind of fault once, with a fixed seed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.chaos.faults import CATALOGUE
from tests.chaos.picture import picture
from tests.chaos.report import table
from tests.chaos.run import Plan, perform

SEED = 4


@pytest.mark.timeout(300)
async def test_every_cheap_fault_once(tmp_path: Path) -> None:
    """Nothing lost, doubled, out of order or foreign; every gap explained; nothing left behind."""
    cheap = [name for name, kind in CATALOGUE.items() if kind.cheap]
    plan = Plan(
        SEED, faults=cheap, each_once=3, length=0.25, rate=80, users=60, admins=6, slow=2,
        chat_changes=5,
    )  # fmt: skip
    run = await perform(plan, tmp_path, print)
    print(table(run.outcome))
    assert run.outcome.passed, "see the table"
    assert {band.name for band in run.outcome.faults} == set(cheap)
    assert run.outcome.told["recovered"] > 0
    assert ET.fromstring(picture(run)).tag.endswith("svg")
