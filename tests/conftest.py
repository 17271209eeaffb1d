"""Fixtures for everyone: real servers, clean for each test, and a look at what a test leaves."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import secrets
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
)
from typing import TYPE_CHECKING

import nats as nats_py
import pytest
import redis as redis_py
import redis.asyncio as redis_asyncio
import structlog
import uvloop
from hypothesis import settings
from nats.aio.client import Client as NatsClient

from daisi_ws.embedded import NatsServer, RedisServer
from tests.processes import children, wait_until_gone

# How long an example takes is the machine's business.
settings.register_profile("untimed", settings(deadline=None))
settings.load_profile("untimed")

if TYPE_CHECKING:
    from pytest_asyncio.plugin import LoopFactory

_TASK_GRACE = 1.0
_CHILD_GRACE = 2.0
_CANCEL_GRACE = 30.0
_session_processes: set[int] = set()


@pytest.fixture(autouse=True)
def _at_info() -> Iterator[None]:
    """Log as in operation, without a line for each event; a test may set up what it needs."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.configure(**before)


@pytest.hookimpl
def pytest_asyncio_loop_factories() -> Mapping[str, LoopFactory]:
    """Run asynchronous tests on the loop that workers run on."""
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cancel asynchronous tests that take too long; pytest-timeout acts only if that does not help.

    It raises in a signal handler, and uvloop reports what is raised there instead of passing it
    on: a test that hangs would hang for ever.
    """
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            seconds = _seconds(item)
            item.obj = _limited(item.obj, seconds)
            item.add_marker(pytest.mark.timeout(seconds + _CANCEL_GRACE), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test has printed fit to travel: reports go from process to process in UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def _seconds(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getini("timeout"))


def _limited(
    test: Callable[..., Awaitable[None]], seconds: float
) -> Callable[..., Coroutine[None, None, None]]:
    @functools.wraps(test)
    async def run(*args: object, **kwargs: object) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return run


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole run; ask for `redis_url` or `redis` to find it empty."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        _session_processes.add(server.guard_pid)
        yield server


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One NATS for the whole run; ask for `nats_url` or `nats` to find it without streams."""
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        _session_processes.add(server.guard_pid)
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """URL of the run's Redis, emptied for this test."""
    with redis_py.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
async def nats_url(nats_server: NatsServer) -> str:
    """URL of the run's NATS, without streams for this test."""
    client = await nats_py.connect(nats_server.url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            assert stream.config.name is not None
            await jetstream.delete_stream(stream.config.name)
    finally:
        await client.close()
    return nats_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[redis_asyncio.Redis]:
    """A client of the emptied Redis; replies are bytes."""
    client = redis_asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def nats(nats_url: str) -> AsyncIterator[NatsClient]:
    """A client of the NATS without streams."""
    client = await nats_py.connect(nats_url)
    yield client
    await client.close()


@pytest.fixture
def fresh_redis() -> Iterator[RedisServer]:
    """A Redis for one test, which may kill, pause and restart it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def fresh_nats() -> Iterator[NatsServer]:
    """A NATS for one test, which may kill, pause and restart it."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def aes_key() -> str:
    """A token key for users: 64 hex characters."""
    return secrets.token_hex(32)


@pytest.fixture
def admin_aes_key() -> str:
    """A token key for admins: 64 hex characters."""
    return secrets.token_hex(32)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a child process, or an asyncio task, after its own fixtures."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_no_task_leaks")
    before = children() | _session_processes
    yield
    left = wait_until_gone(children() - before - _session_processes, _CHILD_GRACE)
    assert not left, f"child processes left running: {left}"


@pytest.fixture
async def _no_task_leaks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=_TASK_GRACE)
    assert not left, f"tasks left running: {left}"
