"""`daisi-ws status`: the cluster as Redis and NATS know it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import click

from daisi_ws.cli.cluster import Observer, Snapshot
from daisi_ws.cli.links import quiet_logs
from daisi_ws.cli.options import DURATION, config_option, load_config
from daisi_ws.cli.running import run
from daisi_ws.cli.status_view import as_json, as_text
from daisi_ws.config import Config

_HOME = "\x1b[H"
_CLEAR_REST = "\x1b[J"
_CLEAR = "\x1b[2J"


@click.command(
    "status",
    epilog="""\b
Examples:
  daisi-ws status
  daisi-ws status --watch
  daisi-ws status --json | jq '.pods[] | {pod_id, connections, ready}'

\b
Exit codes:
  0    all is well
  1    something is away, missing or NOT READY, or there are no pods; what, and the next step,
       is printed
  2    the command line or the configuration has a problem
  130  Ctrl-C (143: SIGTERM)
""",
)
@click.option(
    "--json", "as_json_", is_flag=True, help="One JSON object (with --watch: a line each)."
)
@click.option("--watch", is_flag=True, help="Look again and again until Ctrl-C.")
@click.option(
    "--interval", type=DURATION, default="1s", show_default=True, help="Between two looks."
)
@config_option
def status_command(
    *, as_json_: bool, watch: bool, interval: float, config_file: Path | None
) -> None:
    """Show pods, connections, who reads the stream, and how far behind it is."""
    config = load_config(config_file)
    quiet_logs()
    snapshot = run(_watch(config, as_json_, interval) if watch else _once(config, as_json_))
    sys.exit(1 if snapshot.troubles else 0)


async def _once(config: Config, machine: bool) -> Snapshot:
    async with Observer.open(config) as observer:
        snapshot = await observer.snapshot()
    text = json.dumps(as_json(snapshot), indent=2) if machine else as_text(snapshot, time.time())
    click.echo(text)
    return snapshot


async def _watch(config: Config, machine: bool, interval: float) -> Snapshot:
    terminal = sys.stdout.isatty() and not machine
    async with Observer.open(config) as observer:
        if terminal:
            click.echo(_CLEAR, nl=False)
        while True:
            snapshot = await observer.snapshot()
            if machine:
                click.echo(json.dumps(as_json(snapshot)))
            elif terminal:
                click.echo(f"{_HOME}{in_place(as_text(snapshot, time.time()))}")
            else:
                click.echo(as_text(snapshot, time.time()) + "\n")
            await asyncio.sleep(interval)


def in_place(text: str) -> str:
    """Return text that overwrites what a terminal showed before, line by line, without flicker."""
    return text.replace("\n", "\x1b[K\n") + "\x1b[K" + _CLEAR_REST
