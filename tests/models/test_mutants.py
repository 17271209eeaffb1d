"""The model can fail: it sees what a gateway lacks."""

from __future__ import annotations

import pytest

from tests.models.mutants import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.lacks)
def test_the_model_sees_what_is_missing(mutant: Mutant) -> None:
    """With the mutant its history goes wrong; without, `test_histories.py` has it go right."""
    assert mutant.wrong()
