"""Everything that parses, with thousands of inputs that are nearly right; the same each time.

For millions, led by what the code does with them: `python -m tests.fuzz --help`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz import stream_targets
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

INPUTS = 3000


@pytest.fixture(scope="module", autouse=True)
def _tidy() -> Iterator[None]:
    yield
    stream_targets.close_loop()
    stream_targets.close_file()


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_understood_or_refused(name: str) -> None:
    """No exception but the documented refusal, and what the target says of the outcome."""
    target = TARGETS[name]
    count = max(100, INPUTS // max(1, target.weight // 3))
    for data in Mutator(target.seeds, target.words, name).inputs(count):
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"input {data!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_right(name: str) -> None:
    """Mutations start from inputs that get through, or all would fail at the first byte."""
    target = TARGETS[name]
    assert target.seeds
    for seed in target.seeds:
        assert target.run(seed), seed
