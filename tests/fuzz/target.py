"""What a fuzz target is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Something that parses, and what must hold of it for any bytes.

    :param run: takes an input and tells whether it got through; whatever it raises is a finding.
    :param seeds: inputs that are right, to start from: they get through.
    :param words: what is worth putting into inputs.
    :param weight: how much an input costs, 1 for about 10 µs.
    """

    name: str
    run: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    weight: int = 1
