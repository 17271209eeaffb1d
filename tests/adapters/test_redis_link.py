"""The one connection to Redis, against a real server and its faults."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from unittest.mock import Mock

import pytest
import redis.asyncio as redis_asyncio
from structlog.testing import capture_logs

from daisi_ws.adapters.redis_link import RedisLink, Script
from daisi_ws.domain.errors import Unavailable
from daisi_ws.embedded import RedisServer
from tests.adapters.redis_support import DEADLINE, Proxy, linked, unconnected, until

_SCRIPT = Script("return ARGV[1]", "098e0f0d1448c0a81dafe820f66d460eb09263da")


async def _reads_processed(redis: redis_asyncio.Redis) -> int:
    return int((await redis.info("stats"))["total_reads_processed"])


async def test_replies_belong_to_their_commands(redis_url: str) -> None:
    """A thousand commands at once get each its own reply, as bytes."""
    async with linked(redis_url) as link:
        replies = await asyncio.gather(*(link.call("ECHO", n) for n in range(1000)))
    assert replies == [b"%d" % n for n in range(1000)]


async def test_commands_of_a_turn_travel_together(
    redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """Two hundred commands of one loop turn reach the server in a piece or two."""
    async with linked(redis_url) as link:
        before = await _reads_processed(redis)
        await asyncio.gather(*(link.send("GET", "x") for _ in range(200)))
        assert await _reads_processed(redis) - before <= 4


async def test_what_a_turn_sets_off_travels_with_it(
    redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """Tasks that a turn has woken ask in the next one: that is not a second write."""
    async with linked(redis_url) as link:
        before = await _reads_processed(redis)
        asked = link.send("GET", "x"), asyncio.create_task(link.call("GET", "y"))
        await asyncio.gather(*asked)
        # The second of them is this question itself.
        assert await _reads_processed(redis) - before == 2


async def test_refused_command_harms_no_other(redis_url: str) -> None:
    """An error reply is one caller's `Unavailable`; the connection and the others go on."""
    async with linked(redis_url) as link:
        number = await link.call("CLIENT", "ID")
        before, wrong, after = (
            link.send("ECHO", "a"),
            link.send("NONSENSE"),
            link.send("ECHO", "b"),
        )
        with pytest.raises(Unavailable, match="unknown command"):
            await wrong
        assert (await before, await after) == (b"a", b"b")
        assert await link.call("CLIENT", "ID") == number


async def test_script_runs_whether_known_or_not(redis_url: str, redis: redis_asyncio.Redis) -> None:
    """A script runs the first time, by digest afterwards, and again after the server forgot it."""
    async with linked(redis_url) as link:
        assert await link.run(_SCRIPT, (), ("a",)) == b"a"
        assert await link.run(_SCRIPT, (), ("b",)) == b"b"
        await redis.script_flush()
        assert await link.run(_SCRIPT, (), ("c",)) == b"c"


async def test_scripts_are_loaded_with_a_new_connection(fresh_redis: RedisServer) -> None:
    """After a restart the server knows the scripts before anybody runs one."""
    async with linked(fresh_redis.url) as link:
        link.keep_loaded(_SCRIPT)
        fresh_redis.restart()
        await until(lambda: link.down_since is not None, "the loss is noticed")
        await link.wait_up()
        assert await link.call("SCRIPT", "EXISTS", _SCRIPT.digest) == [1]


async def test_thousands_of_pushes_without_a_reply_between(
    redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """Invalidations in any number leave the connection whole."""
    pushed: list[Any] = []
    async with linked(redis_url) as link:
        link.on_push("invalidate", lambda message: pushed.extend(message[1]))
        link.send("CLIENT", "TRACKING", "ON")
        await asyncio.gather(*(link.send("GET", f"k{n}") for n in range(3000)))
        await redis.mset({f"k{n}": 1 for n in range(3000)})
        await until(lambda: len(pushed) == 3000, "all invalidations arrive")
        assert link.up
        assert await link.call("ECHO", "still in step") == b"still in step"


async def test_subscription_is_confirmed_and_delivers(
    redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """A subscription counts as one reply, and messages reach the callback."""
    messages: list[Any] = []
    async with linked(redis_url) as link:
        link.on_push("pmessage", messages.append)
        await link.call("PSUBSCRIBE", "a:*")
        assert await link.call("ECHO", "in step") == b"in step"
        await redis.publish("a:1", "hello")
        await until(lambda: bool(messages), "the message arrives")
    assert messages == [[b"pmessage", b"a:*", b"a:1", b"hello"]]


async def test_failing_callback_of_a_push_is_logged(
    redis_url: str, redis: redis_asyncio.Redis
) -> None:
    """A callback that raises takes neither the connection nor a reply with it."""

    def fail(_: list[Any]) -> None:
        raise ValueError

    async with linked(redis_url) as link:
        link.on_push("pmessage", fail)
        await link.call("PSUBSCRIBE", "*")
        with capture_logs() as lines:
            await redis.publish("a", "b")
            await until(lambda: bool(lines), "the line is written")
        assert lines[0]["event"] == "push from redis not handled"
        assert await link.call("ECHO", "x") == b"x"


async def test_frozen_server_is_noticed_within_the_timeout(fresh_redis: RedisServer) -> None:
    """No answer in time is `Unavailable` for all who wait; later callers do not wait at all."""
    async with linked(fresh_redis.url, timeout_ms=200) as link:
        fresh_redis.pause()
        began = time.monotonic()
        outcomes = await asyncio.gather(
            *(link.call("GET", "x") for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert 0.15 < time.monotonic() - began < 5.0
        with pytest.raises(Unavailable, match="no reply within"):
            await link.call("GET", "x")
        fresh_redis.resume()
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        assert await link.call("ECHO", "x") == b"x"


async def test_connection_comes_back_by_itself(fresh_redis: RedisServer) -> None:
    """Loss and return are told once each; what sets a connection up is sent before all else."""
    told: list[str] = []
    async with linked(fresh_redis.url) as link:
        link.on_down(lambda: told.append("down"))
        link.on_up(lambda: told.append("up"))
        link.on_connect(lambda link: _remember(link, told))
        fresh_redis.kill()
        await until(lambda: "down" in told, "the loss is told")
        assert link.down_since is not None
        fresh_redis.start()
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        assert told == ["set up", "down", "set up", "up"]
        assert link.down_since is None
        assert await link.call("GET", "set-up") == b"1"


def _remember(link: RedisLink, told: list[str]) -> None:
    told.append("set up")
    link.send("INCR", "set-up")


async def test_what_is_asked_while_the_connection_ends_is_unavailable(redis_url: str) -> None:
    """It is gone already, and nobody has told the link yet: nothing is raised in the loop."""
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    async with linked(redis_url) as link:
        assert link._wire is not None
        asked = link.send("PING")
        link._wire._transport.abort()
        with pytest.raises(Unavailable):
            await asked
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        assert await link.call("ECHO", "x") == b"x"
    assert not raised


async def test_lost_reply_is_unknown_and_shifts_nothing(redis_server: RedisServer) -> None:
    """A reply that is lost on the way ends the connection: no later one is taken for it."""
    async with Proxy(redis_server.port) as proxy, linked(proxy.url, timeout_ms=100) as link:
        proxy.losing = True
        with pytest.raises(Unavailable):
            await link.call("ECHO", "lost")
        proxy.losing = False
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        assert await link.call("ECHO", "found") == b"found"


class LateProxy(Proxy):
    """While `late`, keeps what a client sends until `go`, even when the client has gone."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.late = False
        self.go = asyncio.Event()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, loses: bool
    ) -> None:
        kept = b""
        while data := await source.read(65_536):
            if self.late and not loses:
                kept += data
            else:
                sink.write(data)
        if loses or not kept:
            raise ConnectionResetError
        await self.go.wait()
        sink.write(kept)
        sink.write_eof()

    async def only_one_left(self) -> None:
        """Return once the older connection is done with."""
        await until(lambda: len(self._tasks) == 1, "one connection")


async def test_what_was_given_up_is_not_done_later(
    redis_url: str, redis_server: RedisServer
) -> None:
    """A command whose reply was late may be on its way still: its connection is ended first."""
    async with LateProxy(redis_server.port) as proxy, linked(proxy.url, timeout_ms=200) as link:
        await link.call("SADD", "route", "pod")
        proxy.late = True
        with pytest.raises(Unavailable):
            await link.call("SREM", "route", "pod")
        proxy.late = False
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        await link.call("SADD", "route", "pod")
        proxy.go.set()
        await proxy.only_one_left()
        assert await link.call("SISMEMBER", "route", "pod") == 1


async def test_own_standstill_is_not_blamed_on_redis(redis_url: str) -> None:
    """A loop that stood still longer than the timeout finds its replies and goes on."""
    async with linked(redis_url, timeout_ms=50) as link:
        number = await link.call("CLIENT", "ID")
        waiting = link.send("ECHO", "x")
        asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        assert await waiting == b"x"
        assert await link.call("CLIENT", "ID") == number


async def test_cancelled_caller_shifts_nothing(redis_url: str) -> None:
    """Who gives up waiting leaves the replies of the others as they are."""
    async with linked(redis_url) as link:
        given_up, other = link.send("ECHO", "a"), link.send("ECHO", "b")
        given_up.cancel()
        assert await other == b"b"


async def test_server_that_is_not_there_yet(fresh_redis: RedisServer) -> None:
    """Without a server the problem is said once, callers get it, and it works once there is one."""
    url = fresh_redis.url
    fresh_redis.kill()
    with capture_logs() as lines:
        async with unconnected(url) as link:
            link.start()
            await until(lambda: "Connect" in link.problem, "the problem is known")
            with pytest.raises(Unavailable, match="Redis is away"):
                await link.call("GET", "x")
            make = Mock(wraps=link._make)
            link._make = make
            await until(lambda: make.call_count >= 3, "more attempts, which say nothing new")
            fresh_redis.start()
            await asyncio.wait_for(link.wait_up(), DEADLINE)
    assert [line["event"] for line in lines] == ["redis away", "redis connected"]


async def test_former_primary_is_left(fresh_redis: RedisServer) -> None:
    """A server that became a replica refuses a write; the connection to it is made anew."""
    async with linked(fresh_redis.url) as link:
        number = await link.call("CLIENT", "ID")
        await link.call("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(Unavailable):
            await link.call("SET", "a", "b")
        await until(lambda: not link.up, "the connection is given up")
        await asyncio.wait_for(link.wait_up(), DEADLINE)
        assert await link.call("CLIENT", "ID") != number


async def test_nonsense_from_the_server_is_survived() -> None:
    """Whatever the other side says, the link keeps trying and says why."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
        await reader.read(100)
        writer.transport.abort()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with capture_logs() as lines:
        async with unconnected(f"redis://127.0.0.1:{port}", 100) as link:
            link.start()
            await until(lambda: bool(lines), "the problem is logged")
            assert not link.up
    server.close()
    assert lines[0]["event"] == "redis away"


async def test_close_tells_who_waits_and_nobody_else(fresh_redis: RedisServer) -> None:
    """Closing ends what waits with `Unavailable`; it is no loss, so `on_down` is not called."""
    told: list[str] = []
    async with linked(fresh_redis.url) as link:
        link.on_down(lambda: told.append("down"))
        fresh_redis.pause()
        waiting = link.send("GET", "x")
        await link.aclose()
        with pytest.raises(Unavailable, match="closed"):
            await waiting
        with pytest.raises(Unavailable, match="closed"):
            await link.call("GET", "x")
        assert not link.up
    assert told == []


async def test_a_link_ends_that_is_being_connected(redis_server: RedisServer) -> None:
    """Also when Redis, frozen until then, answers at the same moment: the library forgets that it
    was cancelled, one time in twenty."""
    for turns in range(60):
        async with unconnected(redis_server.url) as link, asyncio.timeout(DEADLINE):
            redis_server.pause()
            link.start()
            await asyncio.sleep(0.01)
            redis_server.resume()
            for _ in range(turns):
                await asyncio.sleep(0)
            await link.aclose()
        assert not link.up
