"""Types of flags: lists of numbers, of layouts, of clients x rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import click

from bench.targets import Layout

_T = TypeVar("_T")


class _List(click.ParamType[list[_T]], Generic[_T]):
    """Values separated by commas; nothing is no value."""

    def __init__(self, name: str, read: Callable[[str], _T]) -> None:
        self.name = name
        self._read = read

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[_T]:
        """See :meth:`click.ParamType.convert`."""
        if isinstance(value, list):
            return value
        try:
            return [self._read(word) for word in value.split(",") if word]
        except ValueError:
            self.fail(f"{value!r} is no list of {self.name}", param, ctx)


def _point(text: str) -> tuple[int, int]:
    clients, _, rate = text.partition("x")
    return int(clients), int(rate)


NUMBERS: Final = _List("N,N,…", int)
LAYOUTS: Final = _List("HxW,HxW,…", Layout.of)
POINTS: Final = _List("CLIENTSxRATE,…", _point)
