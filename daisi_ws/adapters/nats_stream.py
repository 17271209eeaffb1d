"""The JetStream stream: found or made, read directly, and its dead letters.

JetStream API: https://docs.nats.io/reference/reference-protocols/nats_api_reference; batched
direct get: ADR-31.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError

from daisi_ws.adapters.nats_connection import API, ApiError, NatsConnection
from daisi_ws.adapters.nats_headers import NO_RESPONDERS, STATUS, parse_headers
from daisi_ws.app.ports import Bounds, Received
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.streams import identity
from daisi_ws.domain.subjects import FILTER
from daisi_ws.domain.tracing import TRACEPARENT, parted, with_traceparent

STREAM_NOT_FOUND: Final = 10059
NAME_IN_USE: Final = 10058
NO_MESSAGE: Final = 10037
NOTHING_MORE: Final = ("204", "404")
IN_BATCH: Final = "Nats-Num-Pending"
REQUEST_ID: Final = "X-Request-ID"
_BATCH: Final = 500
_READ_TIMEOUT_SECONDS: Final = 3.0
_MOST_DELETED: Final = 20_000
"""With more holes in the stream than this they are not asked for: any part may have one."""
_HEADER_FRAME_BYTES: Final = 64
_DAY_NS: Final = 86_400_000_000_000

log = structlog.get_logger(__name__)


class StreamMissing(Exception):
    """The stream does not exist and may not be made; its text says what to do."""


class JetStream:
    """One stream.

    :param create: whether to make it when it is missing.
    """

    def __init__(
        self,
        connection: NatsConnection,
        name: str,
        create: bool,
        dead_letter_subject: str,
        replicas: int = 1,
    ) -> None:
        self._connection = connection
        self._create = create
        self._dead_letter_subject = dead_letter_subject
        self._replicas = replicas
        self._letters_kept = False
        self.name = name
        self._on_new: list[Callable[[str], object]] = []
        self.identity = ""
        self.allow_direct = False
        self._replicated = False

    def on_new(self, callback: Callable[[str], object]) -> None:
        """Call back with the stream's identity when it is found, and when it was made anew."""
        self._on_new.append(callback)

    async def ensure(self) -> dict[str, Any]:
        """Find the stream, or make it; return its info.

        :raises StreamMissing: it is missing and may not be made.
        :raises Unavailable: NATS does not answer.
        """
        try:
            info = await self._connection.request(f"STREAM.INFO.{self.name}", {})
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND:
                raise Unavailable(str(error)) from None
            info = await self._make()
        found = identity(self.name, info["created"])
        if found != self.identity:
            self.identity = found
            for callback in self._on_new:
                callback(found)
        self.allow_direct = bool(info["config"].get("allow_direct"))
        self._replicated = int(info["config"].get("num_replicas", 1)) > 1
        return info

    async def bounds(self) -> Bounds:
        """Return which stream there is, and the first and the last sequence it has now.

        :raises Unavailable: NATS does not answer, or the stream is gone.
        """
        call = f"STREAM.INFO.{self.name}"
        try:
            info = await self._connection.request(call, {})
            deleted = int(info["state"].get("num_deleted", 0))
            if 0 < deleted <= _MOST_DELETED:
                info = await self._connection.request(call, {"deleted_details": True})
        except ApiError as error:
            raise Unavailable(str(error)) from None
        state = info["state"]
        holes = None if deleted > _MOST_DELETED else sorted(state.get("deleted") or ())
        found = identity(self.name, info["created"])
        return Bounds(found, int(state["first_seq"]), int(state["last_seq"]), holes)

    async def read(
        self, after: int, upto: int, subject: str = FILTER, limit: int | None = None
    ) -> list[Received]:
        """Read events of the stream itself: sequences over `after`, up to `upto`, in order.

        :param subject: only events published to it; wildcards as in NATS.
        :param limit: end when there are so many.
        :raises Unavailable: NATS does not answer.
        """
        messages: list[Received] = []
        while after < upto and (limit is None or len(messages) < limit):
            if self.allow_direct:
                size = _BATCH if limit is None else min(_BATCH, limit - len(messages))
                batch = await self._read_batch(after + 1, subject, size)
            if not self.allow_direct or (not batch and self._replicated):
                # Any server answers a direct get, and one that is behind ends too early. This one
                # is for the stream's leader.
                batch = await self._read_one(after + 1, subject)
            if not batch:
                break
            messages.extend(message for message in batch if message.seq <= upto)
            after = batch[-1].seq
        return messages

    async def dead_letter(self, message: Received, reason: str, problem: str) -> None:
        """Keep a message that is no event; one that is too large with all that is said is cut.

        :raises Unavailable: it could not be stored.
        """
        headers = {
            "Daisi-Reason": reason,
            "Daisi-Problem": problem.encode("ascii", "replace").decode()[:500],
            "Daisi-Subject": message.subject.encode("ascii", "replace").decode()[:500],
            "Daisi-Seq": str(message.seq),
            "Daisi-Size": str(len(message.data)),
            "Nats-Msg-Id": f"{self.identity}-{message.seq}",
        }
        request_id, parent = parted(message.request_id)
        if request_id:
            headers[REQUEST_ID] = request_id
        if parent:
            headers[TRACEPARENT] = parent
        for name, value in headers.items():
            headers[name] = " ".join(value.split())
        await self._ensure_letters()
        client = self._connection.client
        subject, data = self._dead_letter_subject, message.data[: _room(client, headers)]
        try:
            try:
                await client.jetstream().publish(subject, data, headers=headers, timeout=2)
            except NoStreamResponseError:
                log.warning("no stream keeps dead letters", subject=subject)
                await client.publish(subject, data, headers=headers)
        except APIError as refused:
            # Asking again would end the same way, and hold up all acknowledgements for good.
            log.error(  # noqa: TRY400 - expected, no traceback
                "dead letter refused", seq=message.seq, problem=refused.description
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"dead letter not stored: {error}") from None

    async def _make(self) -> dict[str, Any]:
        if not self._create:
            raise StreamMissing(
                f"the stream {self.name} does not exist: make it "
                f"(nats stream add {self.name} --subjects '{FILTER}' --allow-direct), "
                "or set nats.create_stream: true"
            )
        config = {
            "name": self.name,
            "subjects": [FILTER],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": _DAY_NS,
            "allow_direct": True,
            "num_replicas": self._replicas,
        }
        try:
            info = await self._connection.request(f"STREAM.CREATE.{self.name}", config)
        except ApiError as error:
            if error.code == NAME_IN_USE:
                return await self._connection.request(f"STREAM.INFO.{self.name}", {})
            raise StreamMissing(f"the stream {self.name} cannot be made: {error}") from None
        log.info("stream made", stream=self.name, subjects=FILTER)
        return info

    async def _ensure_letters(self) -> None:
        """Make a stream for dead letters where we may; once."""
        if self._letters_kept or not self._create:
            return
        config = {
            "name": f"{self.name}_dead_letters",
            "subjects": [self._dead_letter_subject],
            "storage": "file",
            "discard": "old",
            "max_msgs": 100_000,
            "max_age": 30 * _DAY_NS,
            "num_replicas": self._replicas,
        }
        try:
            await self._connection.request(f"STREAM.CREATE.{config['name']}", config)
        except ApiError as error:
            log.info("dead letters keep their stream", problem=str(error))
        self._letters_kept = True

    async def _read_batch(self, first: int, subject: str, size: int) -> list[Received]:
        client = self._connection.client
        inbox = client.new_inbox()
        done: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        messages: list[Received] = []

        async def collect(reply: Msg) -> None:
            headers = reply.headers or {}
            if "Nats-Sequence" in headers:
                messages.append(_from_direct(reply, headers, self.name))
                if IN_BATCH in headers:
                    return
                headers = {STATUS: NOTHING_MORE[0]}  # before 2.11 one is all that comes
            if not done.done():
                done.set_result(headers)

        try:
            subscription = await client.subscribe(inbox, cb=collect)
        except (NatsError, OSError) as error:
            raise Unavailable(f"the stream cannot be read: {error}") from None
        try:
            request = {"seq": first, "batch": size, "next_by_subj": subject}
            await client.publish(
                f"{API}.DIRECT.GET.{self.name}", json.dumps(request).encode(), reply=inbox
            )
            async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
                end = await done
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the stream cannot be read: {error}") from None
        finally:
            if self._connection.up:
                with suppress(NatsError):  # it is gone with its connection
                    await subscription.unsubscribe()
        status = end.get(STATUS, "")
        if status == NO_RESPONDERS:
            self.allow_direct = False  # it was changed since: ask the leader until we look again
        elif status not in NOTHING_MORE:
            raise Unavailable(f"the stream cannot be read: status {status}")
        return messages

    async def _read_one(self, first: int, subject: str) -> list[Received]:
        request = {"seq": first, "next_by_subj": subject}
        try:
            reply = await self._connection.request(f"STREAM.MSG.GET.{self.name}", request)
        except ApiError as error:
            if error.code == NO_MESSAGE:
                return []
            raise Unavailable(str(error)) from None
        message = reply["message"]
        return [
            Received(
                seq=int(message["seq"]),
                stored_ns=_nanoseconds(message["time"]),
                subject=message["subject"],
                data=base64.b64decode(message.get("data", "")),
                reply="",
                request_id=request_id_of(_headers(message), self.name, int(message["seq"])),
                redelivered=True,
            )
        ]


def request_id_of(headers: Mapping[str, str] | None, stream: str, seq: int) -> str:
    """Return the request ID that a message was published with, else one made from its place;
    with the trace context behind it, if it has one."""
    if not headers:
        return f"{stream}-{seq}"
    request_id = headers.get(REQUEST_ID, "")[:128] or f"{stream}-{seq}"
    # Go's libraries write header names in capitals.
    parent = headers.get(TRACEPARENT) or headers.get("Traceparent")
    return with_traceparent(request_id, parent) if parent else request_id


def _headers(message: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a message read through the API."""
    return parse_headers(base64.b64decode(message.get("hdrs", "")))


def _room(client: Client, headers: Mapping[str, str]) -> int:
    """Return how many bytes fit beside headers: over its limit the server ends the connection."""
    said = sum(len(name) + len(value) + len(": \r\n") for name, value in headers.items())
    limit: int = client.max_payload
    return max(0, limit - said - _HEADER_FRAME_BYTES)


def _from_direct(message: Msg, headers: dict[str, str], stream: str) -> Received:
    seq = int(headers["Nats-Sequence"])
    return Received(
        seq=seq,
        stored_ns=_nanoseconds(headers["Nats-Time-Stamp"]),
        subject=headers["Nats-Subject"],
        data=message.data,
        reply="",
        request_id=request_id_of(headers, stream, seq),
        redelivered=True,
    )


def _nanoseconds(timestamp: str) -> int:
    """Parse RFC 3339 with up to nine digits; Python's own parser knows six."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)
