"""What each part of the way to a socket knows of itself."""

from __future__ import annotations

import pytest
from nats.aio.client import Client as NatsClient
from redis.asyncio import Redis

from daisi_ws.app.ports import ReaderRecord
from daisi_ws.app.readiness import SILENCE_SECONDS
from daisi_ws.app.readiness_parts import ConsumerPart, GrpcPart, RedisPart, StreamPart
from daisi_ws.app.readiness_ports import ConsumerState
from daisi_ws.domain.errors import Unavailable
from tests.app.pods import InProcessPod, pod, publish, roles, until
from tests.app.test_readiness import Time


class Link:
    """A connection that is up or not."""

    def __init__(self) -> None:
        self.up = True
        self.problem = "lost"


class View:
    """A consumer as told."""

    def __init__(self) -> None:
        self.problem = self.stream_problem = ""
        self.stream_seen = 1
        self.bound = True
        self.pulling = True
        self.state = ConsumerState(0, 0, 0, pulled=True)

    async def look(self, timeout: float) -> ConsumerState:
        assert timeout > 0
        self.stream_seen += 1
        return self.state


class Known:
    """A registry without reader, and changes that are told or not."""

    def __init__(self) -> None:
        self.told = True
        self.error: Exception | None = None

    async def reader(self) -> ReaderRecord | None:
        if self.error is not None:
            raise self.error
        return None

    async def leases(self, pod_ids: object) -> list[bool]:
        raise AssertionError(pod_ids)

    async def check(self) -> bool:
        return self.told


async def test_redis_must_answer() -> None:
    """A connection alone is not enough; an answer that is late is told."""
    link, known, time = Link(), Known(), Time()
    part = RedisPart(link, known, known)
    assert part.look(time()).problem
    await part.ask(time)
    assert part.look(time()) == ("", time(), False)
    time.passes(SILENCE_SECONDS + 0.1)
    assert "does not answer" in part.look(time()).problem
    await part.ask(time)
    assert not part.look(time()).problem
    link.up = False
    assert part.look(time()).problem == "no connection: lost"
    assert not part.applies()


async def test_redis_must_tell_changes() -> None:
    """Changes that are not told are trouble until they are again; so is a refusal."""
    known, time = Known(), Time()
    part = RedisPart(Link(), known, known)
    known.told = False
    await part.ask(time)
    assert "routes" in part.look(time()).problem
    known.told = True
    await part.ask(time)
    assert not part.look(time()).problem
    known.error = Unavailable("refused: NOAUTH")
    with pytest.raises(Unavailable):
        await part.ask(time)
    assert "NOAUTH" in part.look(time()).problem


async def test_the_stream_must_exist() -> None:
    """Every sign of it counts; silence and its absence are told."""
    view, time = View(), Time()
    part = StreamPart(Link(), view)
    assert not part.look(time()).problem
    time.passes(SILENCE_SECONDS + 0.1)
    assert part.look(time()).problem == "NATS does not answer"
    view.stream_seen += 1
    assert not part.look(time()).problem
    view.stream_problem = "it is gone"
    assert part.look(time()).problem == "it is gone"


async def test_the_consumer_must_be_pulled_from() -> None:
    """By this pod, and by somebody as the server sees it, for longer than a moment."""
    view, time = View(), Time()
    part = ConsumerPart(Link(), view)
    assert not part.look(time()).problem
    view.state = ConsumerState(0, 0, 0, pulled=False)
    for problem in ("", "", "nobody asks for messages"):
        await part.ask(time)
        assert part.look(time()).problem == problem
    view.state = ConsumerState(0, 0, 1, pulled=False)
    await part.ask(time)
    assert not part.look(time()).problem
    view.pulling = False
    assert "asks for no messages" in part.look(time()).problem
    view.bound, view.problem = False, "the consumer is gone"
    assert part.look(time()).problem == "the consumer is gone"


async def test_events_that_nobody_takes_are_noticed() -> None:
    """Since when some wait and none was given out; a backlog that moves is none of it."""
    view, time = View(), Time()
    part = ConsumerPart(Link(), view)
    for delivered in range(3):
        view.state = ConsumerState(5, 0, delivered, pulled=True)
        await part.ask(time)
        assert part.stalled_since is None
        time.passes(1)
    await part.ask(time)
    since = part.stalled_since
    assert since == time()
    time.passes(1)
    await part.ask(time)
    assert part.stalled_since == since
    view.state = ConsumerState(0, 0, 2, pulled=True)
    await part.ask(time)
    assert part.stalled_since is None


async def test_the_own_server_must_answer() -> None:
    """What its call ended with is told, until it is answered."""
    error: Exception | None = Unavailable("hung up")
    serving = False

    async def call() -> None:
        if error is not None:
            raise error

    time = Time()
    part = GrpcPart(lambda: serving, call)
    assert part.look(time()).problem == "not serving"
    assert not part.applies()
    serving = True
    with pytest.raises(Unavailable):
        await part.ask(time)
    assert part.look(time()).problem == "hung up"
    error = None
    await part.ask(time)
    assert not part.look(time()).problem


# Whole pods


def problems(of: InProcessPod) -> set[str]:
    """Return which parts of a pod are not ready."""
    return set(of.parts.health.problems())


def watch(*pods: InProcessPod) -> None:
    """Have pods ask."""
    for each in pods:
        each.tasks.spawn("readiness", each.parts.readiness.run())


async def test_idle_pods_are_ready(pods: list[InProcessPod], nats: NatsClient) -> None:
    """Without client and event; with a reader, everybody hears it, though nothing comes."""
    watch(*pods)
    await until(lambda: not any(map(problems, pods)))
    _, other = await roles(pods, nats)
    heard = other.parts.inbound.heard
    await until(lambda: other.parts.inbound.heard > heard + 2)
    assert not any(map(problems, pods))


async def test_changes_that_are_not_told_any_more_are_asked_for_anew(
    redis_url: str, nats_url: str, redis: Redis, nats: NatsClient
) -> None:
    """An invalidation that would not come would cost events: everything known is forgotten."""
    async with pod(redis_url, nats_url) as only:
        watch(only)
        tab = await only.user("ann")
        first = await publish(nats)
        await until(lambda: tab.seqs() == [first])
        await only.parts.link.call("CLIENT", "TRACKING", "OFF")
        await until(lambda: bool(only.parts.readiness.states()["redis"].reason))
        await until(lambda: not only.parts.readiness.states()["redis"].reason)
        info = await only.parts.link.call("CLIENT", "TRACKINGINFO")
        assert b"on" in info[b"flags"]
        assert await redis.ping()


async def test_a_server_that_is_gone_is_noticed(redis_url: str, nats_url: str) -> None:
    """The gRPC server does not take connections any more."""
    async with pod(redis_url, nats_url) as only:
        watch(only)
        await until(lambda: not problems(only))
        server = only.parts.grpc._server
        assert server is not None
        await server.stop(0)
        await until(lambda: problems(only) == {"grpc"}, 15)
