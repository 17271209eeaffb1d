"""What a run is compared with: a revision, measured in turns, or an earlier result."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import msgspec

from bench.results import Figure, Ratio, Results, ratio
from bench.targets import ROOT, Version

PRODUCT: Final = "product"
FLOOR: Final = "floor"


@dataclass
class Against:
    """What to compare with.

    :param versions: one to be measured, too, or none.
    :param earlier: an earlier result, if that is it.
    """

    name: str = ""
    versions: list[Version] = field(default_factory=list)
    earlier: Results | None = None

    def ratio(self, results: Results, figure: Figure) -> Ratio | None:
        """Return the product's figure over the other's; None where there is none."""
        if not self.name or not figure.variant.startswith(PRODUCT):
            return None
        if self.earlier is not None:
            before = self.earlier.find(figure.group, figure.case, figure.variant, figure.metric)
            return ratio(figure, before, paired=False)
        variant = self.name + figure.variant.removeprefix(PRODUCT)
        return ratio(figure, results.find(figure.group, figure.case, variant, figure.metric))


def over_floor(results: Results, figure: Figure) -> Ratio | None:
    """Return a figure over the floor's; None for the floor itself, and where there is none."""
    if figure.variant == FLOOR:
        return None
    return ratio(figure, results.find(figure.group, figure.case, FLOOR, figure.metric))


@contextmanager
def resolve(against: str | None) -> Iterator[Against]:
    """Find out what was named; a revision is checked out for the time of the block.

    :raises click.ClickException: it is neither.
    """
    if not against:
        yield Against()
    elif Path(against).is_file():
        try:
            earlier = Results.load(Path(against))
        except msgspec.MsgspecError as error:
            raise click.ClickException(
                f"{against} is no result of this benchmark: {error}"
            ) from None
        yield Against(earlier.machine.revision or "earlier", [], earlier)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            tree = Path(folder) / "tree"
            name = _git("rev-parse", "--short", "--verify", f"{against}^{{commit}}")
            _git("worktree", "add", "--detach", str(tree), name)
            try:
                yield Against(name, [Version(name, tree)])
            finally:
                _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise click.ClickException(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
