"""The durable consumer as an object of JetStream: found, checked, made or changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import structlog
from nats.errors import Error as NatsError

from daisi_ws.adapters.nats_connection import API_TIMEOUT_SECONDS, ApiError, NatsConnection
from daisi_ws.adapters.nats_stream import STREAM_NOT_FOUND, JetStream
from daisi_ws.domain import consumer
from daisi_ws.domain.consumer import GROUP, ConsumerSettings
from daisi_ws.domain.errors import Unavailable

CONSUMER_NOT_FOUND: Final = 10014
CONSUMER_EXISTS: Final = (10013, 10148)

log = structlog.get_logger(__name__)


class ConsumerMismatch(Exception):
    """A durable of that name exists, of another kind; its text says both and the way out."""


class ConsumerGone(Unavailable):
    """There is no consumer of that name any more."""


class StreamGone(Unavailable):
    """There is no stream of that name any more."""


class NatsBinding:
    """What the JetStream API is asked about one consumer."""

    def __init__(
        self, connection: NatsConnection, stream: JetStream, settings: ConsumerSettings
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._settings = settings

    def api(self, verb: str) -> str:
        """Return the API's subject for a request about the consumer, without prefix."""
        return f"{verb}.{self._stream.name}.{self._settings.name}"

    async def info(self, timeout: float = API_TIMEOUT_SECONDS) -> dict[str, Any]:
        """Return the consumer's info.

        :param timeout: seconds.
        :raises ConsumerGone: there is none.
        :raises StreamGone: nor a stream.
        :raises Unavailable: NATS does not answer.
        """
        try:
            return await self._connection.request(self.api("CONSUMER.INFO"), {}, timeout)
        except ApiError as error:
            if error.code == STREAM_NOT_FOUND:
                raise StreamGone(f"the stream {self._stream.name} is gone") from None
            if error.code == CONSUMER_NOT_FOUND:
                raise ConsumerGone("the consumer is gone") from None
            raise Unavailable(str(error)) from None

    async def ensure(self, start_after: Callable[[], int | None]) -> dict[str, Any]:
        """Find the consumer, or make it; return its configuration.

        :param start_after: asked where one that is made begins, see
            :func:`daisi_ws.domain.consumer.wanted_config`.
        :raises ConsumerMismatch: a durable of that name is of another kind.
        :raises Unavailable: NATS does not answer.
        """
        try:
            found = await self.info()
        except ConsumerGone:
            return await self._make(start_after())
        config: dict[str, Any] = found["config"]
        wanted = consumer.wanted_config(self._settings, None)
        if consumer.is_bindable_push(config, self._settings.mode):
            return config
        if consumer.shape(config) != consumer.shape(wanted):
            raise ConsumerMismatch(self._mismatch(config, wanted))
        if consumer.needs_update(config, wanted):
            changed = {name: wanted[name] for name in wanted if name != "deliver_policy"}
            await self._create({**config, **changed}, "update")
        return config

    async def unpin(self) -> None:
        """Have the server pin another client at once.

        :raises ApiError: nobody is pinned.
        :raises Unavailable: NATS does not answer.
        """
        await self._connection.request(self.api("CONSUMER.UNPIN"), {"group": GROUP}, timeout=1.0)

    async def give_again(self, info: dict[str, Any]) -> None:
        """Have the last message that was given out delivered again if nothing else can be.

        A reader that ended with as many unacknowledged as may be leaves none to be given, and so
        nobody would be pinned before they are delivered again, after the ack wait. A NAK has the
        server do that at once, whoever says it.

        :param info: of the consumer, as `CONSUMER.INFO` answers.
        :raises Unavailable: NATS does not answer.
        """
        groups = info.get("priority_groups") or ()
        if not groups or any(group.get("pinned_client_id") for group in groups):
            return
        if info["num_ack_pending"] < info["config"]["max_ack_pending"]:
            return
        last = info["delivered"]
        # NATS, ADR-15: stream, consumer, deliveries, stream and consumer sequence, time, how many
        # are left.
        place = f"{self._stream.name}.{self._settings.name}.1"
        subject = f"$JS.ACK.{place}.{last['stream_seq']}.{last['consumer_seq']}.0.0"
        log.warning("nobody reads, and too much is unacknowledged: asking for it again")
        try:
            await self._connection.client.publish(subject, b"-NAK")
        except (NatsError, OSError) as error:
            raise Unavailable(f"not asked for again: {error}") from None

    async def _make(self, start_after: int | None) -> dict[str, Any]:
        try:
            await self._create(consumer.wanted_config(self._settings, start_after), "create")
        except ApiError as error:
            if error.code not in CONSUMER_EXISTS:
                raise ConsumerMismatch(
                    f"the consumer {self._settings.name} cannot be made: {error}; consumer_mode "
                    "ordered needs nats-server 2.11 or newer, shared works with older ones"
                ) from None
            log.info("consumer made by another pod", consumer=self._settings.name)
        else:
            log.info(
                "consumer made",
                consumer=self._settings.name,
                after="now" if start_after is None else start_after,
            )
        made: dict[str, Any] = (await self.info())["config"]
        return made

    async def _create(self, config: dict[str, Any], action: str) -> None:
        body = {"stream_name": self._stream.name, "config": config, "action": action}
        await self._connection.request(
            f"{self.api('CONSUMER.CREATE')}.{config['filter_subject']}", body
        )

    def _mismatch(self, found: dict[str, Any], wanted: dict[str, Any]) -> str:
        return (
            f"the durable {self._settings.name} of stream {self._stream.name} is of another kind: "
            f"found {json.dumps(consumer.shape(found))}, "
            f"nats.consumer_mode {self._settings.mode} needs "
            f"{json.dumps(consumer.shape(wanted))}; "
            "set nats.consumer_name to a name of its own, choose the other consumer_mode, or "
            f"delete it (nats consumer rm {self._stream.name} {self._settings.name})"
        )
