"""The demonstration: clients connect, events are published, every arrival is shown and checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from daisi_ws.cli.cluster import Observer
from daisi_ws.cli.dev_clients import AGENT, CHAT, COMPANY, STRANGER_COMPANY, Visitor, Visitors
from daisi_ws.cli.samples import KINDS, encode, made_up, subject_of
from daisi_ws.cli.table import table
from daisi_ws.cli.wording import milliseconds, plural
from daisi_ws.client.publisher import Publisher

ARRIVAL_SECONDS: Final = 5.0
"""Longest wait for one event at all its clients."""

_ROUNDS: Final = 3
_USERS: Final = ("ana", "bruno", "chidi", "dana")
_MOST_USERS: Final = 40
_ROW: Final = "  {kind:<9}{seq:>5}   {client:<8}  {read:<10} {delivered:<10} {latency:>9}  {way}"


@dataclass(slots=True)
class Outcome:
    """What the demonstration has shown.

    :param latencies: from publishing to the client, in seconds, of every delivery.
    :param expected: how many deliveries there should be.
    :param crossed: how many were delivered by another worker than the one that read the event.
    :param problems: what went wrong; empty if every promise was kept.
    """

    latencies: list[float] = field(default_factory=list)
    expected: int = 0
    crossed: int = 0
    problems: list[str] = field(default_factory=list)


class Demonstration:
    """Runs once.

    :param slots: slot of each pod by its ID.
    """

    def __init__(
        self,
        observer: Observer,
        publisher: Publisher,
        visitors: Visitors,
        slots: Mapping[str, int],
    ) -> None:
        self._observer = observer
        self._publisher = publisher
        self._visitors = visitors
        self._slots = slots
        self._news = asyncio.Event()
        self._published: list[tuple[str, str]] = []
        visitors.on_arrival = self._news.set

    async def connect(self) -> None:
        """Connect users until every worker has one, as the kernel spreads them, and two others."""
        visitors = self._visitors
        names = (*_USERS, *(f"user-{n}" for n in range(len(_USERS) + 1, _MOST_USERS + 1)))
        users: list[Visitor] = []
        for name in names:
            spread = {user.slot for user in users} >= set(self._slots.values())
            if spread and len(users) >= len(_USERS):
                break
            users.append(await visitors.user(name))
        for user in _one_of_each_slot(users):
            await visitors.select_chat(user)
        await visitors.user("eve", STRANGER_COMPANY)
        await visitors.admin("root")
        rows = [[f"  {v.name}", f"worker {v.slot}", _looks_at(v)] for v in visitors.all]
        click.echo("\n".join(table(("  CLIENT", "CONNECTED TO", "LOOKS AT"), rows)))

    async def run(self) -> Outcome:
        """Publish events of all kinds, show every arrival, check them all."""
        outcome = Outcome()
        head = _ROW.format(
            kind="EVENT",
            seq="SEQ",
            client="CLIENT",
            read="READ BY",
            delivered="SENT BY",
            latency="LATENCY",
            way="",
        )
        click.echo(click.style(head.rstrip(), dim=True))
        for number in range(_ROUNDS):
            for kind in KINDS:
                await self._show(kind, number, outcome)
        outcome.problems += violations(self._visitors.all, self._published)
        self._visitors.keeping = False
        return outcome

    async def _show(self, kind: str, number: int, outcome: Outcome) -> None:
        event = made_up(kind, COMPANY, AGENT, CHAT, number)
        event_id = str(event["event_id"])
        self._published.append((kind, event_id))
        expecting = [visitor for visitor in self._visitors.all if kind in visitor.kinds]
        outcome.expected += len(expecting)
        began = time.time()
        subject = subject_of(kind, COMPANY, AGENT, CHAT)
        seq = await self._publisher.publish_and_wait(subject, encode(event))
        arrived = await self._wait_for(event_id, expecting)
        reader = await self._observer.pods.reader()
        read_by = self._slots.get(reader.pod_id, -1) if reader is not None else -1
        for visitor in expecting:
            received_at = arrived.get(visitor.name)
            if received_at is None:
                outcome.problems.append(
                    f"the {kind} event with sequence {seq} did not reach {visitor.name} (worker "
                    f"{visitor.slot}) within {ARRIVAL_SECONDS:g} s"
                )
                continue
            outcome.latencies.append(received_at - began)
            outcome.crossed += visitor.slot != read_by
            self._show_arrival(kind, seq, visitor, read_by, received_at - began)

    def _show_arrival(
        self, kind: str, seq: int, visitor: Visitor, read_by: int, latency: float
    ) -> None:
        row = _ROW.format(
            kind=kind,
            seq=seq,
            client=visitor.name,
            read=f"worker {read_by}",
            delivered=f"worker {visitor.slot}",
            latency=milliseconds(latency),
            way=click.style("through gRPC", fg="cyan") if visitor.slot != read_by else "",
        )
        click.echo(row.rstrip())

    async def _wait_for(self, event_id: str, expecting: list[Visitor]) -> dict[str, float]:
        """Return when the event came to whom, once it has come to all or the time is over."""
        deadline = asyncio.get_running_loop().time() + ARRIVAL_SECONDS
        while True:
            self._news.clear()
            arrived = {
                visitor.name: arrival.received_at
                for visitor in expecting
                for arrival in visitor.arrivals
                if arrival.event_id == event_id
            }
            left = deadline - asyncio.get_running_loop().time()
            if len(arrived) == len(expecting) or left <= 0:
                return arrived
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                continue


def violations(visitors: Iterable[Visitor], published: Sequence[tuple[str, str]]) -> list[str]:
    """Return what came twice, out of order, or to whom it should not.

    :param published: kind and event ID of every event, in order.
    """
    found: list[str] = []
    for visitor in visitors:
        got = [arrival.event_id for arrival in visitor.arrivals]
        wanted = [event_id for kind, event_id in published if kind in visitor.kinds]
        # What did not come is told when it does not.
        due = [event_id for event_id in wanted if event_id in got]
        if got != due:
            found.append(
                f"{visitor.name} got {plural(len(got), 'event')} instead of {len(due)}, or not in "
                "order"
            )
    return found


def verdict(outcome: Outcome) -> str:
    """Return the demonstration's result in a sentence."""
    latencies = sorted(outcome.latencies)
    if outcome.problems:
        lines = [f"{len(latencies)} of {outcome.expected} deliveries arrived; what went wrong:"]
        return "\n".join([click.style(lines[0], fg="red"), *(f"  {p}" for p in outcome.problems)])
    p50 = milliseconds(latencies[len(latencies) // 2])
    p99 = milliseconds(latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)])
    return (
        f"{click.style(f'all {len(latencies)} deliveries arrived', fg='green')}, each once and in "
        f"order; p50 {p50}, p99 {p99}; {outcome.crossed} went from worker to worker; "
        "eve, of another company, saw nothing"
    )


def _one_of_each_slot(users: list[Visitor]) -> list[Visitor]:
    return list({user.slot: user for user in reversed(users)}.values())


def _looks_at(visitor: Visitor) -> str:
    if "agents" in visitor.kinds:
        return "the agents of all companies (admin)"
    if not visitor.kinds:
        return f"the chat list of company {STRANGER_COMPANY}"
    chat = f" and {CHAT}" if "messages" in visitor.kinds else ""
    return f"the chat list of {COMPANY}/{AGENT}{chat}"
