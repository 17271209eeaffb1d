"""The floor: the least that a gateway in Python can do for an event, as a process of its own.

uvloop and aiohttp's handshake, nats-py with a continuous pull, one JSON pass with `row_data` left
raw, the event's bytes spliced, one write per socket and loop turn, one acknowledgement per event.
It promises nothing: no token, lock or registry, no second process, no limits, no metrics, and what
is lost is lost. What the product costs more than this is the price of its promises.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Final

import msgspec
import nats
import uvloop
from aiohttp import WSMsgType, web
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

STREAM: Final = "wa_stream"
SUBJECTS: Final = "websocket.>"
CONSUMER: Final = "floor"
OUTSTANDING: Final = 2000
READY: Final = b'{"type":"ready"}'


class _Payload(msgspec.Struct, gc=False):
    event_id: str
    company_id: str
    row_data: msgspec.Raw


_payload = msgspec.json.Decoder(_Payload)
_TYPES: Final = {"chats": b"chat", "messages": b"message", "agents": b"agent"}


def _frame(text: bytes) -> bytes:
    size = len(text)
    if size < 126:
        return bytes((0x81, size)) + text
    return b"\x81\x7e" + size.to_bytes(2, "big") + text


class Connection:
    """A socket and what waits for it."""

    __slots__ = ("queued", "subject", "transport", "waiting")

    def __init__(self, transport: asyncio.Transport, subject: str) -> None:
        self.transport = transport
        self.subject = subject
        self.waiting: list[bytes] = []
        self.queued = False


class Floor:
    """Everything the floor does."""

    def __init__(self) -> None:
        self._wanting: dict[str, dict[Connection, None]] = {}
        self._dirty: list[Connection] = []
        self._client: Nats | None = None
        self._inbox = ""
        self._asked = 0

    # -- events -----------------------------------------------------------------------------------

    async def read(self, url: str) -> None:
        """Pull without end; returns once it has begun."""
        self._client = await nats.connect(url)
        jetstream = self._client.jetstream()
        try:
            await jetstream.stream_info(STREAM)
        except NotFoundError:
            await jetstream.add_stream(name=STREAM, subjects=[SUBJECTS])
        await jetstream.add_consumer(
            STREAM, durable_name=CONSUMER, ack_policy="explicit", max_ack_pending=5000
        )
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(
            self._inbox, cb=self._take, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        await self._pull()

    async def _pull(self) -> None:
        assert self._client is not None
        request = {"batch": OUTSTANDING - self._asked, "expires": 3600 * 10**9}
        self._asked = OUTSTANDING
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}",
            json.dumps(request).encode(),
            reply=self._inbox,
        )

    async def _take(self, message: Msg) -> None:
        assert self._client is not None
        subject = message.subject
        parts = subject.split(".")
        data = message.data
        _payload.decode(data)
        seq = int(message.reply.split(".")[-4])
        frame = _frame(
            b'{"type":"event","seq":%d,"payload":%b,"event_type":"%b"}}'
            % (seq, data[:-1], _TYPES[parts[3]])
        )
        for connection in self._match(subject, parts):
            connection.waiting.append(frame)
            if not connection.queued:
                connection.queued = True
                if not self._dirty:
                    asyncio.get_running_loop().call_soon(self._flush)
                self._dirty.append(connection)
        await self._client.publish(message.reply, b"")
        self._asked -= 1
        if self._asked <= OUTSTANDING // 2:
            await self._pull()

    def _match(self, subject: str, parts: list[str]) -> dict[Connection, None]:
        if parts[3] != "agents":
            return self._wanting.get(subject, {})
        matched: dict[Connection, None] = {}
        for company in (parts[1], "*"):
            for agent in (parts[2], "*"):
                matched.update(self._wanting.get(f"websocket.{company}.{agent}.agents", {}))
        return matched

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.queued = False
            waiting, connection.waiting = connection.waiting, []
            connection.transport.write(b"".join(waiting))

    # -- connections ------------------------------------------------------------------------------

    async def user(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a user: the chat list, and the thread it selects."""
        company, agent = request.match_info["company"], request.match_info["agent"]
        return await self._serve(request, f"websocket.{company}.{agent}")

    async def admin(self, request: web.Request) -> web.WebSocketResponse:
        """Serve an admin, who says in the query what it wants."""
        company, agent = request.query.get("company", "*"), request.query.get("agent", "*")
        return await self._serve(request, f"websocket.{company}.{agent}", admin=True)

    async def _serve(
        self, request: web.Request, base: str, *, admin: bool = False
    ) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("json.v1",), compress=False)
        await socket.prepare(request)
        assert request.transport is not None
        connection = Connection(request.transport, "")
        own = f"{base}.agents" if admin else f"{base}.chats"
        self._wanting.setdefault(own, {})[connection] = None
        request.transport.write(_frame(READY))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._select(connection, base, message.data)
        finally:
            for subject in (own, connection.subject):
                self._wanting.get(subject, {}).pop(connection, None)
        return socket

    def _select(self, connection: Connection, base: str, text: str) -> None:
        asked = json.loads(text)
        self._wanting.get(connection.subject, {}).pop(connection, None)
        connection.subject = f"{base}.messages.{asked['payload']['chat_id']}"
        self._wanting.setdefault(connection.subject, {})[connection] = None
        done = json.dumps({"type": "done", "id": asked.get("id")})
        connection.transport.write(_frame(done.encode()))


async def _main(url: str, port: int) -> None:
    floor = Floor()
    await floor.read(url)
    app = web.Application()
    app.router.add_get("/ws/admin", floor.admin)
    app.router.add_get("/ws/{company}/{agent}", floor.user)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=2048).start()
    gc.collect()
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2])))
