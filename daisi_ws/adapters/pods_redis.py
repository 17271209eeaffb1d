"""The registry of pods, their leases, and the record of the reader, in Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

import msgspec
import structlog

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink, Script
from daisi_ws.app.ports import PodRecord, ReaderRecord
from daisi_ws.domain.errors import Unavailable
from daisi_ws.log import limited

_pod = msgspec.json.Decoder(PodRecord)
_reader = msgspec.json.Decoder(ReaderRecord)
_encode = msgspec.json.Encoder().encode

# msgspec lets two of Python's own through: text that is not UTF-8, arrays nested too deeply.
_NO_RECORD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

log = structlog.get_logger(__name__)


def decode_reader(record: bytes | None) -> ReaderRecord | None:
    """Decode the reader's record as read from Redis.

    :raises Unavailable: it is no such record: whoever reads cannot be told.
    """
    try:
        return None if record is None else _reader.decode(record)
    except _NO_RECORD as error:
        raise Unavailable(f"the reader's record is none: {error}") from None


def _decode_pod(record: bytes | None) -> PodRecord | None:
    """Decode a pod's record; one that is none is as good as no lease."""
    if record is None:
        return None
    try:
        return _pod.decode(record)
    except _NO_RECORD as error:
        limited(log, "pod record ignored", record=repr(record[:200]), problem=str(error))
        return None


def pod_id_of(member: bytes) -> str:
    """Decode a member of a set of pods. What is no text is no pod, whoever put it there: it holds
    nothing up."""
    return member.decode(errors="replace")


async def remove_gone(link: RedisLink | ClusterLink, forget: Script, key: str, pod_id: str) -> None:
    """Remove a pod from a set, only if it has no lease.

    :param forget: the script `forget_pod`.
    :raises Unavailable: Redis is away.
    """
    lease = redis_keys.pod(pod_id)
    if link.in_order:
        await link.run(forget, (key, lease), (pod_id,))
    elif not await link.call("EXISTS", lease):
        # The two lie apart: a pod that has come back in between is put back.
        await link.call("SREM", key, pod_id)
        if await link.call("EXISTS", lease):
            await link.call("SADD", key, pod_id)


class PodsRedis:
    """:class:`daisi_ws.app.ports.Pods` over one Redis connection.

    :param stream_name: whose reader the record names.
    :param lease_seconds: getter of how long a lease lasts after its last refresh.
    """

    def __init__(
        self, link: RedisLink | ClusterLink, stream_name: str, lease_seconds: Callable[[], float]
    ) -> None:
        self._link = link
        self._lease_seconds = lease_seconds
        self._refresh = Script.load("refresh_pod")
        self._forget = Script.load("forget_pod")
        keys = (redis_keys.reader_epoch, redis_keys.reader)
        self._reader_keys = tuple(key(stream_name, not link.in_order) for key in keys)
        self._claim_reader = Script.load("claim_reader")
        self._resign_reader = Script.load("resign_reader")
        self._keep_reader = Script.load("keep_reader")
        self._claim_host = Script.load("claim_host")

    async def refresh(self, record: PodRecord) -> bool:
        """See :meth:`Pods.refresh`."""
        key, lease = redis_keys.pod(record.pod_id), int(self._lease_seconds() * 1000)
        if not self._link.in_order:
            await self._link.call("SADD", redis_keys.PODS, record.pod_id)
            before = await self._link.call("SET", key, _encode(record), "PX", lease, "GET")
            return before is not None
        arguments = (_encode(record), lease, record.pod_id)
        return bool(await self._link.run(self._refresh, (key, redis_keys.PODS), arguments))

    async def leases(self, pod_ids: Sequence[str]) -> list[bool]:
        """See :meth:`Pods.leases`."""
        asked = [self._link.send("EXISTS", redis_keys.pod(pod_id)) for pod_id in pod_ids]
        return [bool(found) for found in await asyncio.gather(*asked)]

    async def records(self) -> list[PodRecord]:
        """See :meth:`Pods.records`. IDs whose lease has ended leave the index here."""
        members = await self._link.call("SMEMBERS", redis_keys.PODS)
        ids = sorted(map(pod_id_of, members))
        if not ids:
            return []
        keys = [redis_keys.pod(pod_id) for pod_id in ids]
        if self._link.in_order:
            found = await self._link.call("MGET", *keys)
        else:
            found = await asyncio.gather(*(self._link.send("GET", key) for key in keys))
        gone = [pod_id for pod_id, record in zip(ids, found, strict=True) if record is None]
        # Not by what was read: others would take one that has come back since for gone.
        await asyncio.gather(
            *(remove_gone(self._link, self._forget, redis_keys.PODS, pod_id) for pod_id in gone)
        )
        return [pod for record in found if (pod := _decode_pod(record)) is not None]

    async def get(self, pod_id: str) -> PodRecord | None:
        """See :meth:`Pods.get`."""
        return _decode_pod(await self._link.call("GET", redis_keys.pod(pod_id)))

    async def remove(self, pod_id: str) -> None:
        """See :meth:`Pods.remove`."""
        await asyncio.gather(
            self._link.send("DEL", redis_keys.pod(pod_id)),
            self._link.send("SREM", redis_keys.PODS, pod_id),
        )

    async def incarnation(self) -> str:
        """See :meth:`Pods.incarnation`."""
        key = redis_keys.INCARNATION
        made, found = await asyncio.gather(
            self._link.send("SET", key, secrets.token_hex(8), "NX"), self._link.send("GET", key)
        )
        del made
        if found is None:
            raise Unavailable("the data was lost just now")
        # A replica that took over has the key, and may lack what was written last.
        return f"{found.decode()}.{self._link.server_run}"

    async def claim_host(self, host: str, supervisor: str) -> str | None:
        """See :meth:`Pods.claim_host`."""
        arguments = (supervisor, int(self._lease_seconds() * 1000))
        holder = await self._link.run(self._claim_host, (redis_keys.host(host),), arguments)
        return None if holder is None else str(holder.decode())

    async def release_host(self, host: str, supervisor: str) -> None:
        """Give a host name back if it is this supervisor's."""
        if await self.claim_host(host, supervisor) is None:
            await self._link.call("DEL", redis_keys.host(host))

    async def claim_reader(self, pod_id: str, stream: str, now: float, known: int = 0) -> int:
        """See :meth:`Pods.claim_reader`."""
        record = ReaderRecord(pod_id=pod_id, epoch=0, stream=stream, since=now)
        return int(
            await self._link.run(self._claim_reader, self._reader_keys, (_encode(record), known))
        )

    async def keep_reader(self, record: ReaderRecord) -> bool:
        """See :meth:`Pods.keep_reader`."""
        arguments = (_encode(record), record.epoch)
        return bool(await self._link.run(self._keep_reader, self._reader_keys, arguments))

    async def reader(self) -> ReaderRecord | None:
        """See :meth:`Pods.reader`."""
        return decode_reader(await self._link.call("GET", self._reader_keys[1]))

    async def resign_reader(self, pod_id: str) -> None:
        """See :meth:`Pods.resign_reader`."""
        await self._link.run(self._resign_reader, self._reader_keys[1:], (pod_id,))
