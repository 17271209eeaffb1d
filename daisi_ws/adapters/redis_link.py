"""One RESP3 connection to Redis for everything a worker asks: commands, tracking, pub/sub.

What is asked within a loop turn, or by what that turn has set off, travels as one write, and
replies come back in order, so a thousand callers share round trips without knowing. Invalidations
of tracked keys arrive on the same connection as the reads they concern: their order is exact.

The library's own client would retry silently (a SET takes up to a minute against a frozen
server, and a repeated `SET NX` calls us busy against ourselves); here an answer that does not
come within the timeout ends the connection, every caller gets `Unavailable`, and the connection
is made again in the background. Of the library only connecting (TLS, HELLO, AUTH, SELECT) is used.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Any, Final

import hiredis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from daisi_ws.adapters.redis_connect import problem_of
from daisi_ws.adapters.redis_wire import Argument, Reply, Wire
from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain.errors import Unavailable

_LUA: Final = Path(__file__).parent / "lua"
_BACKOFF_SECONDS: Final = (0.05, 1.0)
_WATCH_SLACK_SECONDS: Final = 0.001
"""A timer for less than this may be due in the same instant, again and again."""

_CONFIRMATIONS: Final = frozenset(("subscribe", "psubscribe", "unsubscribe", "punsubscribe"))

_Asked = tuple[asyncio.Future[Reply], float, tuple[Argument, ...] | None]
"""Whose reply is next, since when, and what is sent instead if Redis does not know the script."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script from `lua/`, run by its digest."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> Script:
        """Read `lua/{name}.lua`."""
        text = (_LUA / f"{name}.lua").read_text()
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


class RedisLink:
    """The connection, kept up in the background.

    :param connect: makes a new, unconnected connection that speaks RESP3.
    :param timeout: seconds within which every reply must come.
    :ivar server_run: what Redis calls the life of its process that we are connected to, known when
        the connection is up; empty where it does not tell. Another one may lack what was written
        last: it was started again, or is the replica of the one that is gone.
    """

    in_order = True
    """Whether all that is sent is done in the order in which it is sent."""

    def __init__(self, connect: Callable[[], AbstractConnection], timeout: float) -> None:
        self._make = connect
        self._timeout = timeout
        self._wire: Wire | None = None
        self._waiting: deque[_Asked] = deque()
        self._outgoing: list[bytes] = []
        self._scripts: dict[str, Script] = {}
        self._on_connect: list[Callable[[RedisLink], None]] = []
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._on_push: dict[str, Callable[[list[Any]], None]] = {}
        self._on_refused: list[Callable[[RedisError], None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._up = asyncio.Event()
        self._logged = ""
        self._seen_as: tuple[bytes, bytes] | None = None
        self.server_run = ""
        self.down_since: float | None = None
        self.problem = "not connected yet"

    @property
    def up(self) -> bool:
        """Tell whether commands are being taken."""
        return self._up.is_set()

    @property
    def working(self) -> bool:
        """Tell whether what keeps the connection up has not ended, against all expectation."""
        return self._keeper is None or not self._keeper.done()

    @property
    def nodes(self) -> Sequence[RedisLink]:
        """Return the connections to all servers: this one."""
        return (self,)

    def node_of(self, key: str) -> RedisLink:
        """Return the connection to the server that has a key: this one."""
        return self

    def on_connect(self, callback: Callable[[RedisLink], None]) -> None:
        """Call back on each new connection, to send what sets it up before anything else.

        With a connection already there it is called now as well.
        """
        self._on_connect.append(callback)
        if self._wire is not None:
            callback(self)

    def on_up(self, callback: Callable[[], None]) -> None:
        """Call back when the connection is made (again)."""
        self._on_up.append(callback)

    def on_down(self, callback: Callable[[], None]) -> None:
        """Call back when the connection is lost; not when it is closed by us."""
        self._on_down.append(callback)

    def on_push(self, kind: str, callback: Callable[[list[Any]], None]) -> None:
        """Call back for RESP3 pushes of one kind (`invalidate`, `pmessage`)."""
        self._on_push[kind] = callback

    def on_refused(self, callback: Callable[[RedisError], None]) -> None:
        """Call back for each command that the server refused."""
        self._on_refused.append(callback)

    def keep_loaded(self, *scripts: Script) -> None:
        """Load scripts with each new connection, so that their first run costs no second trip."""
        self._scripts.update((script.digest, script) for script in scripts)

    def start(self) -> None:
        """Begin to connect in the background."""
        self.down_since = asyncio.get_running_loop().time()
        self._keeper = asyncio.create_task(self._keep(), name="redis link")

    async def wait_up(self) -> None:
        """Wait until the connection is there."""
        await self._up.wait()

    async def aclose(self) -> None:
        """End the connection; callers that wait get `Unavailable`."""
        await end_tasks(self._keeper)
        self._disconnect("closed")
        self._up.clear()

    def send(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command with all others of this loop turn; the future has its reply.

        The future raises `Unavailable` if the connection is away or lost, the reply late, or the
        command refused; nobody needs to look at it. Replies are bytes, not text. Of the pub/sub
        commands only those with one channel or pattern are counted right.
        """
        if self._wire is None:
            return failed(Unavailable(f"Redis is away: {self.problem}"))
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._ask(future, command)
        return future

    def _ask(
        self,
        future: asyncio.Future[Reply],
        command: tuple[Argument, ...],
        unknown: tuple[Argument, ...] | None = None,
    ) -> None:
        """Send a command whose reply a future gets.

        :param unknown: what is sent instead if Redis does not know the script.
        """
        loop = asyncio.get_running_loop()
        if not self._outgoing:
            # In the turn after the next: by then those have asked whom this turn has woken.
            loop.call_soon(loop.call_soon, self._write)
        self._outgoing.append(hiredis.pack_command(command))  # type: ignore[arg-type] # any number
        self._waiting.append((future, loop.time(), unknown))
        if self._watch is None:
            self._watch_in(loop, self._timeout)

    async def call(self, *command: Argument) -> Reply:
        """Send a command and wait for its reply.

        :raises Unavailable: see :meth:`send`.
        """
        return await self.send(*command)

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> asyncio.Future[Reply]:
        """Run a Lua script; see :meth:`send`."""
        if self._wire is None:
            return failed(Unavailable(f"Redis is away: {self.problem}"))
        self._scripts[script.digest] = script
        rest = (len(keys), *keys, *args)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._ask(future, ("EVALSHA", script.digest, *rest), ("EVAL", script.text, *rest))
        return future

    def _write(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._wire is not None:
            self._wire.write(outgoing)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        shortest, longest = _BACKOFF_SECONDS
        pause = shortest
        while True:
            began, wire = loop.time(), None
            try:
                wire = Wire(await self._connect(), self._take)
                self._set_up(wire)
                await wire.ended
            except Exception as error:  # noqa: BLE001 - whatever it was, the worker needs Redis
                if self._wire is wire:
                    self._drop(problem_of(error))
            if loop.time() - began > longest:
                pause = shortest
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, longest)

    async def _connect(self) -> AbstractConnection:
        connection = self._make()
        try:
            async with asyncio.timeout(max(self._timeout * 2, 1.0)):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _set_up(self, wire: Wire) -> None:
        self._wire = wire
        self._end_predecessor()
        self.server_run = ""
        self.send("INFO", "server").add_done_callback(self._note_run)
        for script in self._scripts.values():
            self.send("SCRIPT", "LOAD", script.text)
        for callback in self._on_connect:
            callback(self)
        self.send("PING").add_done_callback(lambda probe: self._announce(wire, probe))

    def _end_predecessor(self) -> None:
        """Have Redis end our last connection, should it be there still.

        What was sent on it and never answered may wait there, and would be done after what is sent
        on this one: a route removed that has been added again since, say.
        """
        if self._seen_as is not None:
            number, address = self._seen_as
            self.send("CLIENT", "KILL", "ID", number, "ADDR", address, "SKIPME", "yes")
        self.send("CLIENT", "INFO").add_done_callback(self._note_identity)

    def _note_identity(self, told: asyncio.Future[Reply]) -> None:
        """Note how Redis names this connection: by an ID alone it might be somebody else's, after a
        restart.
        """
        if not told.cancelled() and told.exception() is None and isinstance(told.result(), bytes):
            fields = dict(field.partition(b"=")[::2] for field in told.result().split())
            self._seen_as = fields[b"id"], fields[b"addr"]

    def _note_run(self, told: asyncio.Future[Reply]) -> None:
        if not told.cancelled() and told.exception() is None:
            found = re.search(rb"run_id:(\w+)", told.result())
            self.server_run = found[1].decode() if found else ""

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification) and not self._pushed(reply):
            return
        future, _, unknown = self._waiting.popleft()
        if not isinstance(reply, RedisError):
            if not future.done():
                future.set_result(reply)
            return
        if isinstance(reply, NoScriptError) and unknown is not None:
            self._ask(future, unknown)
            return
        _fail(future, Unavailable(f"Redis refused: {reply}"))
        for callback in self._on_refused:
            callback(reply)
        if isinstance(reply, ReadOnlyError):
            raise reply  # a former primary: connecting again leads to the new one

    def _announce(self, wire: Wire, probe: asyncio.Future[Reply]) -> None:
        if self._wire is not wire or probe.cancelled() or probe.exception() is not None:
            return
        self._up.set()
        self.down_since = None
        self._logged = ""
        log.info("redis connected")
        tell(self._on_up)

    def _pushed(self, message: list[Any]) -> bool:
        """Take what is pushed; tell whether it is the reply to a command after all."""
        kind = message[0].decode() if isinstance(message[0], bytes) else str(message[0])
        if kind in _CONFIRMATIONS:
            return True  # RESP3 confirms subscriptions by a push
        callback = self._on_push.get(kind)
        if callback is not None:
            try:
                callback(message)
            except Exception:
                log.exception("push from redis not handled", kind=kind)
        return False

    def _watch_in(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        due = loop.time() + seconds
        self._watch = loop.call_at(due, self._check, due)

    def _check(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        self._watch = None
        if not self._waiting:
            return
        now = loop.time()
        age = now - self._waiting[0][1]
        if self._timeout - age > _WATCH_SLACK_SECONDS:
            self._watch_in(loop, self._timeout - age)
        elif now - due > self._timeout / 2:
            # This loop stood still, not Redis: the reply may lie in the socket already.
            self._watch_in(loop, self._timeout)
        else:
            self._drop(f"no reply within {self._timeout:.3g} s")

    def _drop(self, problem: str) -> None:
        was_up = self._up.is_set()
        self._up.clear()
        if self.down_since is None:
            self.down_since = asyncio.get_running_loop().time()
        self._disconnect(problem)
        if problem != self._logged:
            self._logged = problem
            log.warning("redis away", problem=problem)
        if was_up:
            tell(self._on_down)

    def _disconnect(self, problem: str) -> None:
        wire, self._wire = self._wire, None
        waiting, self._waiting = self._waiting, deque()
        self._outgoing = []
        self.problem = problem
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if wire is not None:
            wire.abort()
        for future, _, _ in waiting:
            _fail(future, Unavailable(f"Redis is away: {problem}"))


def tell(callbacks: list[Callable[[], None]]) -> None:
    """Call all: one that raised would end the task that connects again."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("change of the redis connection not handled")


def failed(error: Exception) -> asyncio.Future[Reply]:
    """Return a future that has ended with an error, which nobody has to look at."""
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    _fail(future, error)
    return future


def _fail(future: asyncio.Future[Reply], error: Exception) -> None:
    """End a future with an error that nobody has to look at."""
    if not future.done():
        future.set_exception(error)
        future.exception()
