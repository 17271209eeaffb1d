"""`python -m tests.chaos`: breaks a cluster for a while, and accounts for every event."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
import uvloop

from tests.chaos.faults import CATALOGUE, why_not
from tests.chaos.picture import picture
from tests.chaos.report import table
from tests.chaos.run import Plan, Run, perform


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
    names = [name.strip() for name in (value or "").split(",") if name.strip()]
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise click.BadParameter(f"unknown: {', '.join(unknown)}; see --list")
    return names


def _list(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        for kind in CATALOGUE.values():
            note = why_not(kind.name)
            click.echo(f"{kind.name:24}{kind.expect}{f' (skipped: {note})' if note else ''}")
        context.exit()


@click.command()
@click.option("--minutes", default=2.0, show_default=True, help="How long faults are made.")
@click.option("--seed", type=int, help="What is drawn depends on it. Default: drawn, and printed.")
@click.option("--faults", callback=_names, help="Kinds to draw from, with commas. Default: all.")
@click.option("--each-once", default=0, metavar="N", help="Every kind once, N at a time; no more.")
@click.option("--rate", default=150.0, show_default=True, help="Events each second.")
@click.option("--users", default=200, show_default=True, help="Users.")
@click.option("--admins", default=12, show_default=True, help="Admins.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the outcome.")
@click.option("--picture", "svg_file", type=click.Path(path_type=Path), help="Write an SVG.")
@click.option("--keep", is_flag=True, help="Keep data and logs also where all is well.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list,
              help="Tell all kinds of faults and what is expected, and end.")  # fmt: skip
def main(  # noqa: PLR0917 - one for each option
    minutes: float,
    seed: int | None,
    faults: list[str],
    rate: float,
    users: int,
    admins: int,
    json_file: Path | None,
    svg_file: Path | None,
    each_once: int,
    *,
    keep: bool,
) -> None:
    """Break a cluster of two hosts in every way there is, and account for every event.

    Ends with 0 only if no event was lost, doubled, out of order or foreign, every gap that a client
    was told of is explained by a fault, and nothing is left behind.
    """
    drawn = random.SystemRandom().randrange(1, 1_000_000) if seed is None else seed
    plan = Plan(drawn, minutes, faults, each_once=each_once, rate=rate, users=users, admins=admins)
    folder = Path(tempfile.mkdtemp(prefix="daisi-ws-chaos-"))
    click.echo(f"seed {drawn}, data and logs in {folder}")
    began = time.monotonic()
    run: Run = uvloop.run(
        perform(plan, folder, lambda line: click.echo(f"[{time.monotonic() - began:6.1f}] {line}"))
    )
    click.echo(table(run.outcome))
    if json_file is not None:
        json_file.write_text(json.dumps(run.outcome.as_json(), indent=1, default=str))
    if svg_file is not None:
        svg_file.write_text(picture(run))
    if run.outcome.passed and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if run.outcome.passed else 1)


if __name__ == "__main__":
    main()
