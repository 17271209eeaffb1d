"""What an upstream program should do: publish to JetStream, in order, and know what is stored."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Final

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from daisi_ws.adapters.nats_connection import NatsConnection

WINDOW: Final = 2000
"""So many events may be on their way without acknowledgement."""


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


_ack = msgspec.json.Decoder(_Ack)


class NotStored(Exception):
    """An event was not stored, or nobody knows whether it was.

    :param no_stream: no stream takes the subject.
    """

    def __init__(self, problem: str, *, no_stream: bool = False) -> None:
        super().__init__(problem)
        self.no_stream = no_stream


class Publisher:
    """Publishes one after the other without waiting for each acknowledgement; the order is kept.

    Nothing is published a second time: an acknowledgement that does not come leaves open whether
    the event was stored. Each carries a `Nats-Msg-Id` of its own, so that who repeats it within
    the stream's duplicate window does not double it.

    :param timeout: seconds without any acknowledgement after which it is given up.
    """

    def __init__(self, connection: NatsConnection, *, timeout: float = 5.0) -> None:
        self._client = connection.client
        self._connection = connection
        self._timeout = timeout
        self._run = secrets.token_hex(6)
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._pending: dict[int, asyncio.Future[int] | None] = {}
        self._progress = asyncio.Event()
        self._problem: NotStored | None = None
        self.sent = 0
        self.stored = 0
        self.duplicates = 0
        self.first_seq = 0
        self.last_seq = 0
        self.stream = ""

    @property
    def pending(self) -> int:
        """Return how many events are not acknowledged yet."""
        return len(self._pending)

    async def start(self) -> None:
        """Begin to listen for acknowledgements."""
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_reply)

    async def publish(self, subject: str, data: bytes, request_id: str = "") -> None:
        """Publish an event; waits only while too many are unacknowledged.

        :raises NotStored: this or an earlier one was refused, or nothing is acknowledged.
        """
        await self._send(subject, data, request_id, None)

    async def publish_and_wait(self, subject: str, data: bytes, request_id: str = "") -> int:
        """Publish an event and return its sequence in the stream.

        :raises NotStored: see :meth:`publish`.
        """
        stored: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        await self._send(subject, data, request_id, stored)
        try:
            async with asyncio.timeout(self._timeout):
                return await stored
        except TimeoutError:
            raise self._unconfirmed() from None

    async def finish(self) -> None:
        """Wait until everything is acknowledged.

        :raises NotStored: something was refused, or no acknowledgement came for the timeout.
        """
        await self._wait_until_pending(0)
        if self._problem is not None:
            raise self._problem

    async def close(self) -> None:
        """Listen no more."""
        if self._subscription is not None and self._connection.up:
            await self._subscription.unsubscribe()

    async def _send(
        self, subject: str, data: bytes, request_id: str, stored: asyncio.Future[int] | None
    ) -> None:
        if self._problem is not None:
            raise self._problem
        if len(self._pending) >= WINDOW:
            await self._wait_until_pending(WINDOW // 2)
        self.sent += 1
        number = self.sent
        headers = {"Nats-Msg-Id": f"{self._run}-{number}"}
        if request_id:
            headers["X-Request-ID"] = request_id
        self._pending[number] = stored
        try:
            await self._client.publish(subject, data, f"{self._inbox}.{number}", headers)
        except (NatsError, OSError) as error:
            del self._pending[number]
            raise NotStored(f"not published: {str(error) or type(error).__name__}") from None

    async def _wait_until_pending(self, most: int) -> None:
        deadline = time.monotonic() + self._timeout
        seen = self.stored
        while len(self._pending) > most and self._problem is None:
            self._progress.clear()
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    await self._progress.wait()
            except TimeoutError:
                raise self._unconfirmed() from None
            if self.stored != seen:
                seen, deadline = self.stored, time.monotonic() + self._timeout

    def _unconfirmed(self) -> NotStored:
        why = "" if self._connection.up else f" ({self._connection.problem})"
        return NotStored(
            f"no acknowledgement for {self._timeout:g} s{why}: {self.stored} of {self.sent} events "
            "are stored for certain, the others may be"
        )

    async def _on_reply(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        waiting = self._pending.pop(number, None)
        self._progress.set()
        problem = self._take(message)
        if problem is not None:
            self._problem = self._problem or problem
        if waiting is not None and not waiting.done():
            if problem is None:
                waiting.set_result(self.last_seq)
            else:
                waiting.set_exception(problem)

    def _take(self, message: Msg) -> NotStored | None:
        if message.headers and message.headers.get("Status") == "503":
            return NotStored("no stream takes this subject", no_stream=True)
        try:
            ack = _ack.decode(message.data)
        except msgspec.DecodeError:
            return NotStored(f"an unreadable acknowledgement: {message.data[:80]!r}")
        if ack.error is not None:
            return NotStored(f"refused: {ack.error.description} (NATS error {ack.error.err_code})")
        self.stored += 1
        self.duplicates += ack.duplicate
        self.stream = ack.stream
        self.first_seq = self.first_seq or ack.seq
        self.last_seq = ack.seq
        return None
