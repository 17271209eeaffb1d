"""Small parts of a worker: addresses, figures, tasks."""

from __future__ import annotations

import asyncio

import pytest

from daisi_ws.config import testing_config
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Tally
from daisi_ws.worker.address import advertised_host, host_port
from daisi_ws.worker.figures import figures
from daisi_ws.worker.tasks import Tasks, retrying


@pytest.mark.parametrize(
    ("values", "host"),
    [
        ({"server__advertise_host": "10.1.2.3"}, "10.1.2.3"),
        ({"server__grpc_host": "127.0.0.9"}, "127.0.0.9"),
        ({"redis__address": "127.0.0.1:6379"}, "127.0.0.1"),
    ],
)
def test_the_advertised_host(values: dict[str, object], host: str) -> None:
    """What was said, else where the server listens, else our side of the route to Redis."""
    assert advertised_host(testing_config(**values)) == host


def test_an_ipv6_address_is_bracketed() -> None:
    """So that the port can be told from it."""
    assert host_port("::1", 50051) == "[::1]:50051"
    assert host_port("127.0.0.1", 50051) == "127.0.0.1:50051"


def test_figures_of_a_second() -> None:
    """Counts, and the percentiles of the latency by bucket edges."""
    tally = Tally()
    assert figures(tally).p99_ms == 0
    tally.chat, tally.message, tally.agent, tally.delivered = 1, 2, 3, 100
    tally.observe_latency(0.0015, 98)
    tally.observe_latency(0.25, 2)
    made = figures(tally)
    assert (made.events, made.deliveries) == (6, 100)
    assert (made.p50_ms, made.p99_ms) == (2.0, 250.0)


async def test_a_task_that_fails_is_told() -> None:
    """The pod does not go on half."""
    told: list[BaseException] = []
    tasks = Tasks(told.append)

    async def fails() -> None:
        raise ValueError("no")

    tasks.spawn("fails", fails())
    tasks.spawn("waits", asyncio.sleep(100))
    async with asyncio.timeout(1):
        while not told:
            await asyncio.sleep(0)
    await tasks.cancel()
    assert [str(error) for error in told] == ["no"]


async def test_retrying_ends_when_the_server_answers() -> None:
    """What is unavailable is tried again; anything else is raised."""
    answers = iter([Unavailable("a"), Unavailable("a"), 7])

    async def work() -> object:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await retrying(work, "work") == 7
