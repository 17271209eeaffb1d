"""`supervisord.conf` under the real supervisord: start, deploys under load, crashes, stop."""

from __future__ import annotations

import asyncio
import configparser
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.config import testing_config
from daisi_ws.domain.deadlines import deadlines
from tests.cluster import HOST, Cluster
from tests.e2e.deploy import Feed, Plan, crowd, everybody_ready, judged, restart, settled
from tests.e2e.scene import until
from tests.ops.supervised import CONFIGURATION, DEADLINE, PROGRAM, SupervisedHost, supervised
from tests.processes import is_alive, wait_until_gone

PLAN = Plan(moves=10, resumes=5, plain=5, rate=50, restarts=1, pace=25, drain=3)
SETTINGS = {
    "app": {
        "shutdown_timeout_seconds": PLAN.drain,
        "drain_reconnects_per_second": PLAN.pace,
        "write_timeout_seconds": PLAN.drain,
    },
    "redis": {"timeout_ms": 3000},
}


def program() -> configparser.SectionProxy:
    """Return the section of the program."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    parser.read(CONFIGURATION)
    return parser[f"program:{PROGRAM}"]


def test_supervisord_waits_as_long_as_the_ladder_says() -> None:
    """`stopwaitsecs` is the rung above the supervisor's own SIGKILL, for the defaults."""
    config = testing_config()
    ladder = deadlines(config.app.shutdown_timeout_seconds, config.server.shutdown_delay_seconds)
    assert float(program()["stopwaitsecs"]) == ladder.manager_kill
    assert program()["stopsignal"] == "TERM"


class Newcomers:
    """Whoever connects just now: one new connection after the other."""

    def __init__(self, host: SupervisedHost) -> None:
        self._host = host
        self.answered = 0
        self.failed: list[str] = []

    @asynccontextmanager
    async def coming(self) -> AsyncIterator[None]:
        """Connect until the block is left."""
        connector = aiohttp.TCPConnector(force_close=True)
        limit = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
            endless = asyncio.create_task(self._run(session))
            try:
                yield
            finally:
                endless.cancel()
                await asyncio.gather(endless, return_exceptions=True)

    async def _run(self, session: aiohttp.ClientSession) -> None:
        while True:
            try:
                async with session.get(f"{self._host.base_url}/health") as answer:
                    await answer.read()
                    if answer.status != 200:
                        self.failed.append(str(answer.status))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self.failed.append(repr(error))
            self.answered += 1
            await asyncio.sleep(0.01)


def refuses(host: SupervisedHost) -> bool:
    """Tell whether nobody holds any port of the host any more."""
    for port in range(host.http_port, host.http_port + 1 + 2 * host.workers):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError:
                return False
    return True


async def replaced(host: SupervisedHost, victim: int) -> bool:
    """Tell whether another worker has taken the place of one that was killed."""
    workers = host.worker_pids()
    return len(workers) == host.workers and victim not in workers


@pytest.mark.timeout(180)
async def test_deploy_and_stop_under_load(
    tmp_path: Path, redis_url: str, nats: NatsClient, nats_url: str
) -> None:
    """`supervisorctl signal USR2` replaces all workers; `supervisorctl stop` ends all.

    Nobody is refused meanwhile, no event is lost, doubled or out of order; the stop ends by
    itself, inside `stopwaitsecs`, and nothing is left.
    """
    async with supervised(tmp_path, redis_url, nats_url, settings=SETTINGS) as (host, keys):
        await host.until_state("RUNNING")
        before = host.remember()
        newcomers = Newcomers(host)
        async with crowd(PLAN, Cluster([host], keys)) as movers:
            feed = Feed(nats, PLAN.groups)
            async with feed.flowing(PLAN.rate), newcomers.coming():
                await feed.more(PLAN.groups)
                await restart(host, 1, PLAN)  # sends USR2 by supervisorctl
                await everybody_ready(movers)
                await feed.more(PLAN.groups)
            await settled(movers, feed.own)
            results = judged(movers, feed)
        faults = {kind: result.faults for kind, result in results.items()}
        assert faults == dict.fromkeys(PLAN.kinds, (0, 0, 0, 0, 0))
        assert newcomers.failed == []
        assert newcomers.answered > 20
        after = host.remember()
        assert len(before & after) == 1, "the supervisor is the same, the workers are new"
        said = await asyncio.to_thread(host.control, "stop", PROGRAM)
        assert said == f"{PROGRAM}: stopped"
        await host.until_state("STOPPED")
        assert "success: daisi-ws entered RUNNING state" in host.manager_log_text()
        assert '"supervisor stopped"' in host.log_text()
        assert '"exit_code":0' in host.log_text().splitlines()[-1]
        assert not wait_until_gone(before | after, DEADLINE)
        assert refuses(host)
        assert "Traceback" not in host.log_text()


@pytest.mark.timeout(180)
async def test_recovers_from_crashes(tmp_path: Path, redis_url: str, nats_url: str) -> None:
    """A worker that is killed is replaced; so is the whole host when its supervisor is killed.

    The old workers end by themselves: none is left that holds a port.
    """
    async with supervised(tmp_path, redis_url, nats_url, settings=SETTINGS) as (host, _):
        await host.until_state("RUNNING")
        supervisor = host.pid
        first = host.remember() - {supervisor}
        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: replaced(host, victim), DEADLINE, "no new worker")
        await host.wait_ready(DEADLINE)
        assert host.pid == supervisor
        second = host.remember()
        os.kill(supervisor, signal.SIGKILL)
        await host.until_state("RUNNING", other_than=supervisor)
        await host.wait_ready(DEADLINE)
        assert not wait_until_gone(first | second, DEADLINE)
        assert is_alive(host.pid)
        assert not host.remember() & second
