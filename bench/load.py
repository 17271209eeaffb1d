"""The load: a process of its own with the publisher and all clients, so that they share a clock.

It reads orders (:mod:`bench.orders`) from standard input and answers on standard output.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import traceback
from array import array
from itertools import pairwise
from typing import Final

import msgspec
import uvloop

from bench.orders import (
    Answer,
    Caught,
    Connect,
    Connected,
    Done,
    Drop,
    Idle,
    Idled,
    Missed,
    Order,
    Placed,
    Positions,
    Quit,
    Ran,
    Run,
    Trouble,
    Who,
)
from bench.procfs import cpu_of, cpu_seconds, family, pss_bytes
from bench.publish import Events, publish
from bench.wire import Client, Shared, clock, open_client

_PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
_PROBLEMS: Final = (ConnectionError, TimeoutError, OSError)


class Load:
    """All clients, and what they are to get."""

    def __init__(self) -> None:
        self._shared = Shared()
        self._clients: list[Client] = []
        self._wants: list[frozenset[int]] = []
        self._next = 1
        self._last = Events([], 1)

    async def obey(self, order: Order) -> Answer:  # noqa: PLR0911 - one for each order
        """Carry out an order."""
        match order:
            case Connect():
                return await self._connect(order)
            case Run():
                return await self._run(order)
            case Missed():
                return await self._missed(order)
            case Idle():
                return await self._idle(order)
            case Positions():
                return Placed([(c.ready.stream, c.ready.seq) for c in self._clients])
            case Drop():
                return await self._drop()
            case Quit():
                return Done()

    # -- connecting -------------------------------------------------------------------------------

    async def _connect(self, order: Connect) -> Connected:
        gate = asyncio.Semaphore(order.at_once)
        cpu, began = cpu_of(order.processes), clock()
        opened = await asyncio.gather(
            *(self._open(who, gate, order.timeout) for who in order.clients)
        )
        seconds = clock() - began
        used = _used(order.processes, cpu)
        clients = [client for client in opened if isinstance(client, Client)]
        problems = [str(client) for client in opened if not isinstance(client, Client)]
        for who, client in zip(order.clients, opened, strict=True):
            if isinstance(client, Client):
                self._clients.append(client)
                self._wants.append(frozenset(who.wants))
        pods: dict[str, int] = {}
        for client in clients:
            pod = _pod_of(client.response)
            pods[pod] = pods.get(pod, 0) + 1
        return Connected(
            ready_ms=[(client.ready_at - client.started_at) * 1e3 for client in clients],
            seconds=seconds,
            cpu=used,
            failed=len(problems),
            problem=problems[0] if problems else "",
            pods=pods,
            recovered=sum(client.ready.recovered is True for client in clients),
        )

    async def _open(self, who: Who, gate: asyncio.Semaphore, timeout: float) -> Client | Exception:
        hello = b""
        if who.chat:
            hello = b'{"type":"select_chat","id":1,"payload":{"chat_id":"%b"}}' % who.chat.encode()
        head = who.head.encode()
        async with gate:
            try:
                return await open_client(
                    lambda: Client(self._shared, head, hello), who.host, who.port, timeout
                )
            except _PROBLEMS as error:
                return error

    async def _drop(self) -> Done:
        for client in self._clients:
            client.abort()
        while not all(client.ended for client in self._clients):
            await asyncio.sleep(0.01)
        self._clients.clear()
        self._wants.clear()
        self._shared.got = 0
        return Done()

    # -- running ----------------------------------------------------------------------------------

    async def _run(self, order: Run) -> Ran:
        events = Events([_line(subject, rest) for subject, rest in order.subjects], self._next)
        sent_at, subjects = events.sent_at, len(events.lines)
        hearers = self._hearers(subjects)
        shared = self._shared
        shared.alike = order.alike
        for client in self._clients:
            client.forget()
        shared.got = 0
        await self._publish(events, order, order.warm_seconds)
        await self._reach(_deliveries(hearers, 0, len(sent_at)), order.settle)
        # What was warmed up with is accounted for, not measured.
        warm, warm_got = len(sent_at), shared.got
        cpu, own = cpu_of(order.processes), cpu_seconds([os.getpid()])
        began = clock()
        await self._publish(events, order, order.seconds)
        published = clock()
        await self._reach(_deliveries(hearers, 0, len(sent_at)), order.settle)
        ended = clock()
        used, own = _used(order.processes, cpu), cpu_seconds([os.getpid()]) - own
        self._next += len(sent_at)
        self._last = events
        await asyncio.sleep(0.05)  # for what comes twice
        return Ran(
            published=len(sent_at) - warm,
            deliveries=shared.got - warm_got,
            expected=_deliveries(hearers, warm, len(sent_at)),
            told_dropped=sum(client.dropped_told for client in self._clients),
            ended=sum(client.ended for client in self._clients),
            latency=_percentiles(self._latencies(events.first, warm, sent_at)),
            cpu=used,
            load_cpu=own / (ended - began),
            window_seconds=ended - began,
            behind_seconds=ended - published,
            late_seconds=published - began - order.seconds,
            problem=next((client.problem for client in self._clients if client.problem), ""),
            **self._account(events.first, len(sent_at), subjects),
        )

    async def _missed(self, order: Missed) -> Caught:
        events = self._last
        subjects, count = len(events.lines), len(events.sent_at)
        expected = _deliveries(self._hearers(subjects), 0, count)
        await self._reach(expected, order.settle)
        await asyncio.sleep(0.05)  # for what comes twice
        return Caught(expected=expected, **self._account(events.first, count, subjects))

    def _hearers(self, subjects: int) -> list[int]:
        """Return how many clients are to get an event of each subject."""
        hearers = [0] * subjects
        for wants in self._wants:
            for index in wants:
                hearers[index] += 1
        return hearers

    async def _publish(self, events: Events, order: Run, seconds: float) -> None:
        await asyncio.to_thread(
            publish, order.nats_host, order.nats_port, events, order.rate, seconds
        )

    async def _reach(self, deliveries: int, timeout: float) -> None:
        """Return once so many deliveries came, or nothing more can be expected."""
        deadline = clock() + timeout
        while self._shared.got < deliveries and clock() < deadline:
            await asyncio.sleep(0.002)

    # -- accounting -------------------------------------------------------------------------------

    def _account(self, first: int, count: int, subjects: int) -> dict[str, int]:
        """Compare what each client got with what it was to get."""
        lost = doubled = disordered = foreign = 0
        wanted: dict[frozenset[int], set[int]] = {}
        for client, wants in zip(self._clients, self._wants, strict=True):
            expected = wanted.get(wants)
            if expected is None:
                expected = wanted[wants] = {
                    number
                    for index in wants
                    for number in range(first + index, first + count, subjects)
                }
            numbers = client.numbers
            got = set(numbers)
            lost += len(expected - got)
            foreign += len(got - expected)
            doubled += len(numbers) - len(got)
            disordered += sum(b < a for a, b in pairwise(numbers))
        return {"lost": lost, "doubled": doubled, "disordered": disordered, "foreign": foreign}

    def _latencies(self, first: int, warm: int, sent_at: array[float]) -> list[float]:
        latencies: list[float] = []
        start, end = first + warm, first + len(sent_at)
        for client in self._clients:
            at = 0
            for when, count in zip(client.times, client.counts, strict=True):
                latencies += [
                    when - sent_at[number - first]
                    for number in client.numbers[at : at + count]
                    if start <= number < end
                ]
                at += count
        return latencies

    async def _idle(self, order: Idle) -> Idled:
        cpu, began = cpu_of(order.processes), clock()
        await asyncio.sleep(order.seconds)
        return Idled(
            cpu=_used(order.processes, cpu),
            pss={name: pss_bytes(family(roots)) for name, roots in order.processes.items()},
            seconds=clock() - began,
            ended=sum(client.ended for client in self._clients),
        )


def _line(subject: str, rest: str) -> tuple[bytes, bytes]:
    return subject.encode(), rest.encode()


def _deliveries(hearers: list[int], start: int, end: int) -> int:
    """Return how many deliveries the events `start` to `end` (excluded) make."""
    return _upto(hearers, end) - _upto(hearers, start)


def _upto(hearers: list[int], count: int) -> int:
    whole, part = divmod(count, len(hearers))
    return whole * sum(hearers) + sum(hearers[:part])


def _used(processes: dict[str, list[int]], before: dict[str, float]) -> dict[str, float]:
    return {name: seconds - before[name] for name, seconds in cpu_of(processes).items()}


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    values.sort()
    last = len(values) - 1
    return {name: values[int(last * share)] * 1e3 for name, share in _PERCENTILES.items()}


def _pod_of(head: bytes) -> str:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"x-daisi-pod":
            return value.strip().decode()
    return ""


async def _main() -> None:
    load = Load()
    decoder = msgspec.json.Decoder(Order)
    gc.disable()  # what it makes is kept anyway
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        answer: Answer
        order = decoder.decode(line)
        try:
            answer = await load.obey(order)
        except Exception:  # noqa: BLE001 - whoever asked is told
            answer = Trouble(traceback.format_exc())
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
        if isinstance(order, Quit):
            return


if __name__ == "__main__":
    uvloop.run(_main())
