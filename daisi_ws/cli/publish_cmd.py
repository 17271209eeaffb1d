"""`daisi-ws publish`: puts events into the stream."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import click

from daisi_ws.adapters.nats_connection import ApiError, NatsConnection
from daisi_ws.adapters.nats_stream import STREAM_NOT_FOUND
from daisi_ws.cli.given_events import BadEvent, complete, lines_of
from daisi_ws.cli.links import nats_away, nats_connection, quiet_logs, stream_missing
from daisi_ws.cli.options import ID, Failure, config_option, load_config, refuse
from daisi_ws.cli.progress import progress
from daisi_ws.cli.running import run
from daisi_ws.cli.samples import KINDS, encode, made_up, subject_of
from daisi_ws.cli.wording import plural
from daisi_ws.client.publisher import NotStored, Publisher
from daisi_ws.config import Config
from daisi_ws.domain.errors import Unavailable

_SHORTEST_SLEEP = 0.001


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be published.

    :param event: one event as JSON; None: from `file`, or made up.
    :param file: where lines come from; `-` is standard input.
    :param count: how many; None: all there are.
    :param rate: events per second; None: as fast as it goes.
    """

    kind: str
    company: str
    agent: str
    chat: str | None
    event: str | None
    file: Path | None
    count: int | None
    rate: float | None
    checked: bool

    @property
    def subject(self) -> str:
        """Return where it goes."""
        return subject_of(self.kind, self.company, self.agent, self.chat)


@click.command(
    "publish",
    epilog="""\b
Examples:
  daisi-ws publish chats --company acme --agent sales
  daisi-ws publish messages --company acme --agent sales --chat chat-7 '{"row_data":{"text":"hi"}}'
  daisi-ws publish agents --company acme --agent sales --rate 500 --count 5000
  jq -c .events[] dump.json | daisi-ws publish chats --company acme --agent sales --file -

\b
Exit codes:
  0    everything is stored in the stream
  1    NATS is away, the stream is missing, or an event was not stored
  2    the command line, an event or the configuration has a problem
  130  Ctrl-C (143: SIGTERM); what was published until then stays
""",
)
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("event", required=False)
@click.option("--company", type=ID, required=True, help="company_id, part of the subject.")
@click.option("--agent", type=ID, required=True, help="agent_id, part of the subject.")
@click.option("--chat", type=ID, help="chat_id; part of the subject of messages.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True, allow_dash=True),
    help="One JSON object a line; - is standard input.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    help="How many: made-up ones, repetitions of EVENT, or at most so many lines of the file."
    " Without it one; made-up ones with --rate until Ctrl-C.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Events per second; as fast as it goes if not given.",
)
@click.option(
    "--unchecked",
    is_flag=True,
    help="Publish what is given as it is, even what the gateway will dead-letter.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
@config_option
def publish_command(
    as_json: bool, unchecked: bool, config_file: Path | None, **options: object
) -> None:
    """Put events into the stream: EVENT (JSON; - is standard input), those of a file, or made-up
    ones.

    An event needs row_data; event_id, company_id, agent_id and chat_id are added where they are
    left out. Each is acknowledged by JetStream; many are on their way at once, in order.
    """
    if options["event"] == "-" and options["file"] is None:
        options |= {"event": None, "file": Path("-")}
    order = Order(checked=not unchecked, **options)  # type: ignore[arg-type]
    _check(order)
    config = load_config(config_file)
    quiet_logs()
    publisher, seconds = run(_publish(config, order))
    _summarize(order, publisher, seconds, as_json)


def _check(order: Order) -> None:
    if order.rate is not None and isnan(order.rate):
        refuse("--rate nan is no number: give events per second, such as 500 or 0.5")
    if order.kind == "messages" and order.chat is None:
        refuse("messages belong to a chat: give --chat")
    if order.kind == "agents" and order.chat is not None:
        refuse("--chat goes with chats and messages, agents have none")
    if order.event is not None and order.file is not None:
        refuse("give EVENT or --file, not both")
    if order.event is not None and order.checked:
        try:
            complete(order.subject, order.event.encode(), "EVENT")
        except BadEvent as problem:
            refuse(str(problem))


async def _publish(config: Config, order: Order) -> tuple[Publisher, float]:
    """Publish it all; return the publisher with its counts, and the seconds it took."""
    async with nats_connection(config, "daisi-ws publish") as connection:
        await _check_stream(config, connection)
        publisher = Publisher(connection)
        await publisher.start()
        began = time.monotonic()
        try:
            async with progress(lambda: _progress(order, publisher)):
                bad = await _publish_all(publisher, order)
                await publisher.finish()
            if bad is not None:
                refuse(f"{bad}\nstored before it: {plural(publisher.stored, 'event')}")
        except NotStored as problem:
            raise _not_stored(config, order, problem) from None
        finally:
            await publisher.close()
        return publisher, time.monotonic() - began


async def _check_stream(config: Config, connection: NatsConnection) -> None:
    try:
        await connection.request(f"STREAM.INFO.{config.nats.stream_name}", {})
    except ApiError as error:
        if error.code == STREAM_NOT_FOUND:
            raise stream_missing(config) from None
        raise Failure(f"NATS refused: {error}") from None
    except Unavailable as error:
        raise nats_away(config, str(error)) from None


async def _publish_all(publisher: Publisher, order: Order) -> BadEvent | None:
    """Publish until the end, or until what is no event: that is returned."""
    loop = asyncio.get_running_loop()
    began, number, subject = loop.time(), 0, order.subject
    try:
        async for data in _events(order):
            if order.rate is not None:
                early = began + number / order.rate - loop.time()
                if early > _SHORTEST_SLEEP:
                    await asyncio.sleep(early)
            await publisher.publish(subject, data)
            number += 1
            if number == order.count:
                break
    except BadEvent as problem:
        return problem
    return None


async def _events(order: Order) -> AsyncIterator[bytes]:
    """Yield the events; `count` is the caller's affair where there could be more."""
    if order.file is not None:
        async for number, line in lines_of(None if str(order.file) == "-" else order.file):
            yield complete(order.subject, line, f"line {number}") if order.checked else line
        return
    made = (order.kind, order.company, order.agent, order.chat)
    for number in itertools.count() if _goes_on(order) else range(1):
        if order.event is None:
            yield encode(made_up(*made, number))
        elif order.checked:
            yield complete(order.subject, order.event.encode(), "EVENT")
        else:
            yield order.event.encode()


def _goes_on(order: Order) -> bool:
    """Tell whether there is more than one event; a rate alone makes them up until Ctrl-C."""
    return order.count is not None or (order.rate is not None and order.event is None)


def _progress(order: Order, publisher: Publisher) -> str:
    total = f" of {order.count:,}" if order.count is not None else ""
    return f"{publisher.stored:,}{total} events stored"


def _not_stored(config: Config, order: Order, problem: NotStored) -> Failure:
    if problem.no_stream:
        return Failure(
            f"no stream takes {order.subject}",
            f"{config.nats.stream_name} must have the subject websocket.> : "
            f"nats stream edit {config.nats.stream_name} --subjects 'websocket.>'",
        )
    return Failure(
        str(problem), "Look at `daisi-ws status`, then publish what is missing once more."
    )


def _summarize(order: Order, publisher: Publisher, seconds: float, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_summary(order, publisher, seconds)))
    elif not publisher.stored:
        click.echo("nothing to publish", err=True)
    elif publisher.stored == 1:
        click.echo(f"1 event on {order.subject}: sequence {publisher.last_seq}")
    else:
        click.echo(
            f"{publisher.stored:,} events on {order.subject}: "
            f"sequences {publisher.first_seq}..{publisher.last_seq} of {publisher.stream}, "
            f"{seconds:.2f} s, {publisher.stored / seconds:,.0f} events/s"
        )


def _summary(order: Order, publisher: Publisher, seconds: float) -> dict[str, object]:
    return {
        "subject": order.subject,
        "stream": publisher.stream,
        "events": publisher.stored,
        "first_seq": publisher.first_seq,
        "last_seq": publisher.last_seq,
        "seconds": round(seconds, 3),
        "events_per_second": round(publisher.stored / seconds, 1),
    }
