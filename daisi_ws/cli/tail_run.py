"""A client that prints what it gets, until it has got enough."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click

from daisi_ws.cli.links import quiet_logs
from daisi_ws.cli.options import Failure
from daisi_ws.cli.tail_view import as_json, as_text, lost
from daisi_ws.cli.wording import plural
from daisi_ws.client import (
    Ended,
    Event,
    Frame,
    Gap,
    Lost,
    Ready,
    ReferenceClient,
    Refused,
    Resumed,
    TokenSource,
    Unreachable,
)


@dataclass(frozen=True, slots=True)
class View:
    """What to show and when to end; see the options."""

    as_json: bool
    count: int | None
    timeout: float | None


def fresh(make: Callable[[], str]) -> TokenSource:
    """Return what gives a client a token of its own for each dial, and before one ends."""

    async def fetch() -> str:
        return make()

    return fetch


async def follow(client: ReferenceClient, view: View, chat: str | None) -> None:
    """Connect and print frames until the view says enough.

    :param chat: to be selected.
    :raises Failure: not connected, sent away for good, or not enough events in time.
    """
    quiet_logs()
    began = time.monotonic()
    printer = _Printer(view)
    try:
        async with asyncio.timeout(view.timeout):
            await client.connect()
            if chat is not None:
                with contextlib.suppress(Unreachable):  # it is selected after the redial
                    await client.select_chat(chat, wait=False)
            await printer.print_all(client)
    except TimeoutError:
        if client.ready is None:
            problem = f"{client.url} was not ready within {view.timeout:g} s"
            raise Failure(problem, _UNREACHABLE) from None
        if view.count is not None:
            wanted = f"{printer.events} of {view.count} events"
            raise Failure(f"only {wanted} came in {view.timeout:g} s") from None
    except Unreachable as problem:
        raise Failure(str(problem), _UNREACHABLE) from None
    except Ended as ended:
        raise Failure(str(ended), _next_step(ended)) from None
    finally:
        await client.close()
        if client.ready is not None:
            summary = _summary(client, printer, time.monotonic() - began)
            click.echo(summary, err=True)


class _Printer:
    def __init__(self, view: View) -> None:
        self._view = view
        self.events = self.recovered = self.gaps = 0

    async def print_all(self, client: ReferenceClient) -> None:
        async for frame in client:
            if isinstance(frame, Lost):
                click.echo(click.style(lost(frame), fg="yellow"), err=True)
                continue
            click.echo(as_json(frame) if self._view.as_json else as_text(frame))
            self._count(frame)
            if self.events == self._view.count:
                return

    def _count(self, frame: Frame) -> None:
        match frame:
            case Event():
                self.events += 1
            case Gap():
                self.gaps += 1
            case Ready() | Resumed():
                self.recovered += frame.replayed


_UNREACHABLE: Final = "Is the gateway running there (`daisi-ws serve`)? --url says where it is."


def _next_step(ended: Ended) -> str:
    error = ended.error if isinstance(ended, Refused) else ""
    if error == "InvalidAPIKey" or ended.code == 4401:
        return "The gateway has another API key than auth.secret_token or auth.admin_secret_token."
    if error == "SessionConflict":
        return "This admin is connected already; app.admin_session_policy decides who stays."
    if error == "InvalidToken" or ended.code == 4403:
        return "`daisi-ws token check TOKEN` explains a token; the gateway may have other keys."
    if ended.code == 4402:
        return "The same identity connected elsewhere; one session each."
    return ""


def _summary(client: ReferenceClient, printer: _Printer, seconds: float) -> str:
    parts = [f"{plural(printer.events, 'event')} in {seconds:.1f} s"]
    position = client.position
    counts = {
        "reconnect": client.reconnects,
        "move": client.moves,
        "gap": printer.gaps,
    }
    parts += [plural(count, what) for what, count in counts.items() if count]
    if printer.recovered:
        parts.append(f"{plural(printer.recovered, 'event')} given again")
    if position is not None and position.duplicates:
        parts.append(f"{plural(position.duplicates, 'duplicate')} held back")
    if position is not None and position.reordered:
        parts.append(f"{position.reordered} out of order")
    return ", ".join(parts)
