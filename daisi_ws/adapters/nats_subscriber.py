"""One subscription whose messages are taken in the call that the socket's bytes came with.

Where that cannot be (:mod:`daisi_ws.adapters.nats_transport` says when) they come by the library's
tasks: later, at more cost, and otherwise the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from daisi_ws.adapters.nats_framing import Taker
from daisi_ws.adapters.nats_transport import DirectTransport

_NONE: Final[Mapping[str, str]] = {}


class Subscriber:
    """A subscription with one taker.

    :param transport: None: everything comes the library's way.
    """

    def __init__(self, client: Client, transport: DirectTransport | None, taker: Taker) -> None:
        self._client = client
        self._transport = transport
        self._taker = taker
        self._subscription: Subscription | None = None
        self._telling: asyncio.Handle | None = None
        self.direct = False

    async def begin(self, subject: str, queue: str = "") -> None:
        """Subscribe.

        :raises NatsError: the client does not take it.
        """
        subscription = await self._client.subscribe(
            subject, queue=queue, cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        self._subscription = subscription
        self.direct = self._transport is not None and self._transport.direct(
            subscription, self._taker
        )

    async def end(self) -> None:
        """End at once: what is on its way is not taken."""
        self._forget()
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._client.is_connected:
            await subscription.unsubscribe()

    async def drain(self) -> None:
        """End after what the server has sent by then is taken.

        :raises NatsError: the connection is lost meanwhile.
        """
        subscription, self._subscription = self._subscription, None
        try:
            if subscription is not None and self._client.is_connected:
                await subscription.drain()
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._transport is not None:
            self._transport.forget(self._taker)

    async def _on_message(self, message: Msg) -> None:
        """Take a message that came the library's way."""
        self._taker.take(message.subject, message.reply, message.data, message.headers or _NONE)
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._taker.taken()
