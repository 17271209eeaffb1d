"""`daisi-ws dev`: everything on one machine, shown at work."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import click

import daisi_ws
from daisi_ws.cli.cluster import Observer
from daisi_ws.cli.dev_clients import Visitors
from daisi_ws.cli.dev_commands import commands
from daisi_ws.cli.dev_demo import Demonstration, Outcome, verdict
from daisi_ws.cli.dev_gateway import GatewayProcess
from daisi_ws.cli.dev_live import live_view
from daisi_ws.cli.dev_steps import step
from daisi_ws.cli.links import nats_connection, quiet_logs
from daisi_ws.cli.options import Failure
from daisi_ws.cli.running import run
from daisi_ws.cli.wording import plural
from daisi_ws.client import client_session
from daisi_ws.client.ending import ClientProblem
from daisi_ws.client.publisher import NotStored, Publisher
from daisi_ws.config import ConfigError
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import EmbeddedServerError, Servers

READY_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05
_LOG_LINES: Final = 15
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(
    "dev",
    epilog="""\b
Examples:
  daisi-ws dev
  daisi-ws dev --once --workers 4
  daisi-ws dev --http-port 8080 --keep ./data

\b
Exit codes:
  0    stopped by Ctrl-C or SIGTERM while serving; with --once: every event arrived
  1    something did not start, or an event did not arrive; the reason is printed
  2    the command line has a problem
  130  Ctrl-C before it was serving (143: SIGTERM)
""",
)
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes."
)
@click.option("--once", is_flag=True, help="End after the demonstration.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The gateway's public port; any free one if not given.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep data, keys and logs there, and go on with them the next time.",
)
def dev_command(*, workers: int, once: bool, http_port: int, keep: Path | None) -> None:
    """Start Redis, NATS and a gateway of two workers here, show events arriving, keep serving.

    The servers are real ones, in a private folder, on free ports of this machine only, with
    throw-away keys. Everything ends with this command, even if it is killed.
    """
    set_aside = _forget_settings()
    quiet_logs()
    try:
        with ExitStack() as stack:
            stack.enter_context(_signals())
            gateway = _start(stack, workers, http_port, keep)
            stack.callback(_ignore_signals)
            run(_show(gateway, workers, once, set_aside))
    except EmbeddedServerError as error:
        raise Failure(error.message, error.log) from None
    except ConfigError as error:
        # Only a file that was kept can be wrong: this program has written it.
        kept = f"{keep}/gateway/config.yaml cannot be gone on with: remove it"
        raise Failure(kept, str(error)) from None


def _start(stack: ExitStack, workers: int, http_port: int, keep: Path | None) -> GatewayProcess:
    with step("Redis and NATS") as say:
        servers = Servers(keep)
        stack.callback(servers.stop)  # before: Ctrl-C may come in between
        servers.start()
        say(f"{servers.redis.address}, {servers.nats.address}")
    folder = keep / "gateway" if keep is not None else None
    gateway = GatewayProcess(servers, workers, port=http_port, folder=folder)
    stack.callback(gateway.stop)
    with step("gateway") as say:
        gateway.start()
        say(f"{gateway.url}, {plural(workers, 'worker')}")
    return gateway


async def _show(gateway: GatewayProcess, workers: int, once: bool, set_aside: list[str]) -> None:
    config = gateway.config()
    async with AsyncExitStack() as stack:
        observer = await stack.enter_async_context(Observer.open(config))
        slots = await _wait_ready(observer, gateway, workers)
        session = await stack.enter_async_context(client_session())
        visitors = Visitors(config, gateway.url, session, slots)
        stack.push_async_callback(visitors.close)
        connection = await stack.enter_async_context(nats_connection(config, "daisi-ws dev"))
        publisher = Publisher(connection)
        await publisher.start()
        outcome = await _demonstrate(Demonstration(observer, publisher, visitors, slots), gateway)
        click.echo(f"\n{verdict(outcome)}")
        if outcome.problems and once:
            raise Failure("an event did not arrive as it should", _log_of(gateway))
        if not once:
            click.echo(f"\n{commands(gateway, set_aside)}\n")
            await _serve(observer, gateway)


async def _demonstrate(demonstration: Demonstration, gateway: GatewayProcess) -> Outcome:
    try:
        click.echo()
        await demonstration.connect()
        click.echo()
        return await demonstration.run()
    except (ClientProblem, NotStored, Unavailable, TimeoutError) as problem:
        why = str(problem) or "no answer in time"
        raise Failure(f"the demonstration failed: {why}", _log_of(gateway)) from None


async def _serve(observer: Observer, gateway: GatewayProcess) -> None:
    try:
        await live_view(observer, lambda: gateway.running)
    except asyncio.CancelledError:
        click.echo("\nstopping")
        return
    raise Failure("the gateway ended by itself", _log_of(gateway))


async def _wait_ready(observer: Observer, gateway: GatewayProcess, workers: int) -> dict[str, int]:
    """Wait until all workers are READY; return the slot of each pod."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while True:
        pods = [pod for pod in (await observer.snapshot()).pods if pod.ready]
        if len({pod.slot for pod in pods}) >= workers:
            return {pod.pod_id: pod.slot for pod in pods}
        if not gateway.running:
            raise Failure("the gateway ended while it was starting", _log_of(gateway))
        if asyncio.get_running_loop().time() > deadline:
            ready = f"{len(pods)} of {plural(workers, 'worker')}"
            raise Failure(f"only {ready} READY after {READY_SECONDS:g} s", _log_of(gateway))
        await asyncio.sleep(_LOOK_SECONDS)


def _log_of(gateway: GatewayProcess) -> str:
    return f"The last lines of the gateway's log:\n{gateway.log_tail(_LOG_LINES)}"


def _forget_settings() -> list[str]:
    """Drop what the shell says of another gateway: this one is described by its own file alone.

    Also lets the child import this package where it is not installed. Returns the names dropped.
    """
    found = [name for name in os.environ if name.startswith("DAISI_WS_")]
    for name in found:
        del os.environ[name]
    home = str(Path(daisi_ws.__file__).parents[1])
    path = os.environ.get("PYTHONPATH", "")
    if "site-packages" not in home and home not in path.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, path)))
    return found


@contextmanager
def _signals() -> Iterator[None]:
    """Turn signals into an orderly way out."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


def _ignore_signals() -> None:
    """Let nothing interrupt the way out; it is short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
