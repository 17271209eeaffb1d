"""`daisi-ws status`, on a real Redis and NATS."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as NatsClient

from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.adapters.redis_connect import RedisOpener
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.app.ports import PodRecord, ReaderRecord
from daisi_ws.cli.cluster import Snapshot, StreamState, Trouble, _of_pods
from daisi_ws.cli.status_view import as_json, as_text
from daisi_ws.config import testing_config as config_for
from tests.cli.command import AWAY, daisi_ws, finish, start
from tests.cluster import cluster

RECORD = PodRecord(
    pod_id="host-0-7",
    host="host",
    slot=0,
    generation=7,
    address="127.0.0.1:50051",
    http_port=8080,
    started=1_767_225_600.0,
    version="1",
    pid=1,
    connections=12,
    ready=True,
    events=100,
    deliveries=1200,
    p50_ms=1.0,
    p99_ms=5.0,
)


@pytest.fixture
async def pods(redis_url: str) -> AsyncIterator[PodsRedis]:
    """The registry in the emptied Redis, with leases that outlast a test."""
    link = RedisLink(RedisOpener(config_for(redis__address=redis_url).redis).primary, 2.0)
    link.start()
    await link.wait_up()
    yield PodsRedis(link, "wa_stream", lambda: 60)
    await link.aclose()


@pytest.fixture
def env(redis_url: str, nats_url: str) -> dict[str, str]:
    """Settings that name the servers."""
    return {"DAISI_WS_REDIS_ADDRESS": redis_url, "DAISI_WS_NATS_URL": nats_url}


async def make_stream(nats: NatsClient) -> None:
    jetstream = nats.jetstream()
    await jetstream.add_stream(name="wa_stream", subjects=["websocket.>"])
    await jetstream.pull_subscribe("websocket.>", durable="ws_fanout", stream="wa_stream")


def test_what_waits_is_shown_by_host_and_kind_of_restart() -> None:
    """Each key once a host, whatever its workers run with; nothing where nothing waits."""
    waits = ["server.http_port", "nats.max_outstanding", "of.another"]
    pods = [
        msgspec.structs.replace(RECORD, waits=waits),
        msgspec.structs.replace(RECORD, slot=1, waits=["server.http_port"]),
        msgspec.structs.replace(RECORD, host="other"),
    ]
    snapshot = Snapshot(pods=pods)
    lines = [line for line in as_text(snapshot, 0).splitlines() if line.startswith("waits")]
    assert lines == [
        "waits     host, for a restart (SIGUSR2 is enough): nats.max_outstanding, of.another",
        "waits     host, for a full restart (of the supervisor, too): server.http_port",
    ]
    assert [host["waits_for_restart"] for host in as_json(snapshot)["hosts"].values()] == [
        {
            "server.http_port": "full restart",
            "nats.max_outstanding": "restart",
            "of.another": "restart",
        },
        {},
    ]


async def test_a_cluster_is_shown(env: dict[str, str], nats: NatsClient, pods: PodsRedis) -> None:
    """Pods with their figures, who reads, and how far the consumer is; code 0."""
    await make_stream(nats)
    for _ in range(3):
        await nats.jetstream().publish("websocket.a.b.chats", b"{}")
    await pods.refresh(RECORD)
    await pods.refresh(
        msgspec.structs.replace(RECORD, pod_id="other-0-1", host="other", connections=3)
    )
    await pods.claim_reader("host-0-7", "wa_stream@1", time.time())
    result = await daisi_ws("status", "--json", env=env)
    found = json.loads(result.out)
    assert result.code == 0, result.err
    assert found["ok"]
    assert found["behind"] == found["stream"]["consumer"]["num_pending"]
    assert sum(host["pods"] for host in found["hosts"].values()) == len(found["pods"])
    assert found["pods"][0]["since"].startswith("20")
    assert [(pod["pod_id"], pod["connections"], pod["reader"]) for pod in found["pods"]] == [
        ("host-0-7", 12, True),
        ("other-0-1", 3, False),
    ]
    assert found["stream"]["last_seq"] == 3
    assert found["stream"]["consumer"]["num_pending"] == 3
    text = (await daisi_ws("status", env=env)).out
    assert "OK, 2 pods on 2 hosts, 15 connections" in text
    assert "3 events not read yet" in text


async def test_a_pod_that_is_not_ready_is_a_problem(
    env: dict[str, str], nats: NatsClient, pods: PodsRedis
) -> None:
    """Code 1, which pod, and where it says why."""
    await make_stream(nats)
    await pods.refresh(msgspec.structs.replace(RECORD, ready=False))
    result = await daisi_ws("status", env=env)
    assert result.code == 1
    assert "host-0-7 is NOT READY" in result.out
    assert "http://127.0.0.1:8080/ready" in result.out


def test_a_pod_that_speaks_tls_says_why_by_it() -> None:
    """The address under which a pod says why is one that answers."""
    (trouble,) = _of_pods([msgspec.structs.replace(RECORD, ready=False)], tls=True)
    assert "https://127.0.0.1:8080/ready" in trouble.next_step


async def test_no_pods_and_no_stream_are_problems(env: dict[str, str]) -> None:
    """Empty servers: code 1, both named with the next step."""
    result = await daisi_ws("status", "--json", env=env)
    found = json.loads(result.out)
    assert result.code == 1
    assert not found["ok"]
    assert any("no stream wa_stream" in problem for problem in found["problems"])
    assert any("no pods" in problem for problem in found["problems"])


async def test_a_missing_consumer_is_a_problem(
    env: dict[str, str], nats: NatsClient, pods: PodsRedis
) -> None:
    """Code 1 and its name."""
    await nats.jetstream().add_stream(name="wa_stream", subjects=["websocket.>"])
    await pods.refresh(RECORD)
    result = await daisi_ws("status", env=env)
    assert result.code == 1
    assert "no consumer ws_fanout" in result.out


async def test_both_servers_away_are_told() -> None:
    """Code 1 and both addresses, within seconds, without a traceback or log lines."""
    result = await daisi_ws("status", env=AWAY)
    assert result.code == 1
    assert "Redis is not there at 127.0.0.1:1" in result.out
    assert "NATS is not there at nats://127.0.0.1:1" in result.out
    assert result.err == ""


async def test_one_server_away_leaves_the_other_shown(nats: NatsClient, nats_url: str) -> None:
    """What can be read is shown although Redis is away."""
    await make_stream(nats)
    result = await daisi_ws("status", env={**AWAY, "DAISI_WS_NATS_URL": nats_url})
    assert result.code == 1
    assert "Redis is not there" in result.out
    assert "ws_fanout" in result.out
    assert "no pods" not in result.out


async def test_watch_shows_what_changes(
    env: dict[str, str], nats: NatsClient, pods: PodsRedis
) -> None:
    """With --watch --json a line comes at each look; SIGINT ends it with 130."""
    await make_stream(nats)
    await pods.refresh(RECORD)
    process = await start("status", "--watch", "--json", "--interval", "50ms", env=env)
    assert process.stdout is not None
    async with asyncio.timeout(15):
        assert len(json.loads(await process.stdout.readline())["pods"]) == 1
        await pods.refresh(msgspec.structs.replace(RECORD, pod_id="host-1-7", slot=1))
        while len(json.loads(await process.stdout.readline())["pods"]) < 2:
            continue
    process.send_signal(signal.SIGINT)
    result = await finish(process)
    assert (result.code, result.err) == (130, "")


async def test_the_real_cluster_is_well(tmp_path: Path, env: dict[str, str], nats_url: str) -> None:
    """Two running hosts are four pods, READY, in ordered mode."""
    redis_url = env["DAISI_WS_REDIS_ADDRESS"]
    async with cluster(tmp_path, redis_url, nats_url, hosts=2, workers=1) as running:
        found: dict[str, object] = {}

        async def well() -> bool:
            result = await daisi_ws("status", "--json", env=running.hosts[0].environment)
            found.update(json.loads(result.out))
            return result.code == 0

        async with asyncio.timeout(20):
            while not await well():
                continue
    pods = msgspec.convert(found["pods"], list[dict[str, object]])
    assert [(pod["host"], pod["slot"]) for pod in pods] == [("host-0", 0), ("host-1", 0)]
    stream = msgspec.convert(found["stream"], dict[str, object])
    assert msgspec.convert(stream["consumer"], dict[str, object])["mode"] == "ordered"


ORDERED = {"priority_policy": "pinned_client"}
STREAM = StreamState("wa_stream", ["websocket.>"], 1, 1, 1, {"config": ORDERED})
READER = ReaderRecord(pod_id="host-0-7", epoch=1, stream="wa_stream@1", since=1_767_225_600.0)


@pytest.mark.parametrize(
    ("pods", "reader", "said"),
    [
        ([RECORD], READER, "host-0-7 for 10 s"),
        ([], READER, "host-0-7 has gone"),
        ([RECORD], None, "chosen with the first event"),
    ],
)
def test_only_a_living_pod_reads(
    pods: list[PodRecord], reader: ReaderRecord | None, said: str
) -> None:
    """The reader's record stays when its pod has gone; nobody reads then."""
    text = as_text(Snapshot(pods, reader, STREAM), 1_767_225_610.0)
    assert said in text
    assert ("reads the stream" in text) == (said == "host-0-7 for 10 s")


def test_problems_come_with_the_next_step() -> None:
    """Each problem is followed by what can be done about it."""
    text = as_text(Snapshot(troubles=[Trouble("it rains", "take an umbrella")]), time.time())
    assert "PROBLEM" in text
    assert text.endswith("it rains\n          take an umbrella")
