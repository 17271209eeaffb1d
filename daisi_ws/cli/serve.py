"""`daisi-ws serve`: the supervisor and its workers.

Imports no client library and no event loop; the worker's code is imported after the fork.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import click

from daisi_ws import log
from daisi_ws.cli.options import config_option
from daisi_ws.cli.serving import (
    KeepRunning,
    Reload,
    ReloadOnChange,
    load_source,
    settings_of,
    warn,
    worker_of,
)
from daisi_ws.cli.serving_embedded import announce, flags_of, make_servers
from daisi_ws.config import ConfigError, FileWatch, Loaded, file_to_read, files_of
from daisi_ws.domain.slots import EXIT_BOOT_FAILED, ConfigSource
from daisi_ws.embedded import EmbeddedServerError, Servers
from daisi_ws.supervisor.run import run_supervisor
from daisi_ws.supervisor.settings import EXIT_REFUSED, StartError


@click.command(
    "serve",
    epilog="""\b
Examples:
  daisi-ws serve --config /etc/daisi-ws.yaml --workers 4
  DAISI_WS_REDIS_ADDRESS=redis:6379 DAISI_WS_NATS_URL=nats://nats:4222 daisi-ws serve
  daisi-ws serve --embedded --data /var/lib/daisi-ws

\b
Signals to the supervisor (the process started here):
  TERM, INT   drain and stop; a second one stops quickly, a third one at once
  HUP         read the configuration again, as a changed file does; an invalid one changes nothing
  USR2        restart the workers one by one, each successor ready before its predecessor drains

\b
Exit codes:
  0  stopped as asked, every worker drained in time
  1  an error of the supervisor itself
  2  the configuration or the command line has a problem, or a port is taken; nothing was started
  3  a worker or an embedded server could not start, although the configuration is valid
  4  stopped as asked, but a worker did not drain in time and was killed
""",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Worker processes (server.workers); one for each core if not given.",
)
@config_option
@click.option("--http-port", type=click.IntRange(0, 65535), help="server.http_port; 0: any free.")
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    help="server.grpc_port, the first of two for each worker; 0: any free ones.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="log.level."
)
@click.option("--log-format", type=click.Choice(["json", "text"]), help="log.format.")
@click.option(
    "--embedded",
    is_flag=True,
    help="Bring a Redis and a NATS server along, for one machine; they listen where"
    " redis.address and nats.url say.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the embedded servers keep their data; without it nothing outlives them.",
)
def serve_command(
    config_file: Path | None,
    embedded: bool,
    data: Path | None,
    **options: int | str | None,
) -> None:
    """Run the gateway on this host: a supervisor and its workers, in the foreground.

    The supervisor owns the ports, restarts what dies, and ends when it is told to; log lines go to
    standard error. Settings come from the configuration file, then DAISI_WS_... variables, then
    the options here; `daisi-ws config doc` explains each.
    """
    if data is not None and not embedded:
        raise click.UsageError("--data is where --embedded keeps its data; give both or neither")
    flags: dict[str, object] = {_KEYS[name]: value for name, value in options.items()}
    # One that is gone later is told as missing, instead of everything falling to its default.
    source = ConfigSource(config_file or file_to_read(os.environ), dict(os.environ), flags)
    files = FileWatch(files_of(source.path, source.environ))
    loaded = _load_or_exit(source)
    log.setup(loaded.config.log.level, loaded.config.log.format)
    warn(loaded)
    beside: list[Callable[[], None]] = [ReloadOnChange(files)]
    with ExitStack() as stack:
        if embedded:
            servers = _start_or_exit(stack, loaded, data)
            announce(loaded, servers)
            flags |= flags_of(loaded, servers)
            loaded = _load_or_exit(source)
            beside.append(KeepRunning(servers))
        settings, reload = settings_of(loaded.config), Reload(source, loaded.config, files)
        try:
            code = run_supervisor(
                settings,
                worker_of(reload.source),
                reload,
                partial(_look_at, beside),
            )
        except StartError as error:
            click.echo("error: cannot start:", err=True)
            for problem in error.problems:
                click.echo(f"  {problem}", err=True)
            code = EXIT_REFUSED
    sys.exit(code)


def _load_or_exit(source: ConfigSource) -> Loaded:
    try:
        return load_source(source)
    except ConfigError as error:
        _refuse(error)


def _start_or_exit(stack: ExitStack, loaded: Loaded, data: Path | None) -> Servers:
    try:
        return stack.enter_context(make_servers(loaded, data))
    except ConfigError as error:
        _refuse(error)
    except EmbeddedServerError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_BOOT_FAILED)


def _refuse(error: ConfigError) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    click.echo("\n`daisi-ws config doc KEY` explains a key.", err=True)
    sys.exit(EXIT_REFUSED)


def _look_at(beside: Iterable[Callable[[], None]]) -> None:
    for look in beside:
        look()


_KEYS: Mapping[str, str] = {
    "workers": "server.workers",
    "http_port": "server.http_port",
    "grpc_port": "server.grpc_port",
    "log_level": "log.level",
    "log_format": "log.format",
}
