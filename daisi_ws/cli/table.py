"""Aligned columns."""

from __future__ import annotations

from collections.abc import Sequence

import click


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> list[str]:
    """Return the lines of a table; cells may be styled.

    :param right: numbers of the columns whose cells are aligned to the right.
    """
    lines = [list(headers), *map(list, rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headers))]
    head, *body = (
        "  ".join(
            _padded(cell, widths[n], right=n in right) for n, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )
    return [click.style(head, dim=True), *body]


def _padded(cell: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(cell: str) -> int:
    return len(click.unstyle(cell))
