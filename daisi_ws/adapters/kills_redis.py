"""The kill switch over Redis pub/sub: a fast path, never the only one.

What is said while the connection is away is lost without a trace; then the renewal of the locks
decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from daisi_ws.adapters import redis_keys
from daisi_ws.adapters.redis_cluster import ClusterLink
from daisi_ws.adapters.redis_link import RedisLink
from daisi_ws.adapters.redis_wire import Reply
from daisi_ws.log import limited

_MOST_BYTES: Final = 4096

log = structlog.get_logger(__name__)


class _Kill(msgspec.Struct, frozen=True):
    new_pod_id: str
    holder: str = ""


_decode = msgspec.json.Decoder(_Kill).decode
_encode = msgspec.json.Encoder().encode


class KillsRedis:
    """:class:`daisi_ws.app.ports.Kills` over one Redis connection."""

    def __init__(self, link: RedisLink | ClusterLink) -> None:
        self._link = link

    async def publish(self, channel: str, new_pod_id: str, holder: str) -> None:
        """See :meth:`Kills.publish`."""
        await self._link.call("PUBLISH", channel, _encode(_Kill(new_pod_id, holder)))

    def listen(self, on_kill: Callable[[str, str, str], None]) -> None:
        """See :meth:`Kills.listen`. One listener for each connection."""

        def on_message(message: list[Any]) -> None:
            _, _, channel, data = message
            kill = _kill(channel, data)
            if kill is not None:
                on_kill(channel.decode(errors="replace"), kill.new_pod_id, kill.holder)

        self._link.on_push("pmessage", on_message)
        self._link.on_connect(_subscribe)


def _kill(channel: bytes, data: bytes) -> _Kill | None:
    problem = f"it has more than {_MOST_BYTES} bytes"
    if len(data) <= _MOST_BYTES:
        try:
            return _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            problem = str(error)
    limited(log, "kill message ignored", channel=repr(channel[:200]), problem=problem)
    return None


def _subscribe(link: RedisLink) -> None:
    link.send("PSUBSCRIBE", redis_keys.KILL_PATTERN).add_done_callback(_look)


def _look(subscribed: asyncio.Future[Reply]) -> None:
    if not subscribed.cancelled() and (error := subscribed.exception()) is not None:
        limited(log, "kill switch not heard, takeovers are slower", problem=str(error))
