"""The NATS connection: made and kept up in the background, with the API calls we need.

The library's defaults give up reconnecting after two minutes and see a frozen server after six;
here it never gives up, and a server that does not answer two pings is left.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from daisi_ws.adapters.nats_framing import Taker
from daisi_ws.adapters.nats_subscriber import Subscriber
from daisi_ws.adapters.nats_transport import DirectTransport, put_under
from daisi_ws.domain.errors import Unavailable

API: Final = "$JS.API"
API_TIMEOUT_SECONDS: Final = 2.0
FIRST_CONNECT_SECONDS: Final = 3.0
_RECONNECT_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """How to reach the server. `tls` is None without TLS."""

    url: str
    username: str = ""
    password: str = ""
    token: str = ""
    credentials_file: str = ""
    tls: ssl.SSLContext | None = None
    ping_interval_seconds: float = 5


class ApiError(Exception):
    """The JetStream API refused.

    :param code: its `err_code` (https://docs.nats.io, "JetStream API errors").
    """

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} (NATS error {code})")
        self.code = code


class NatsConnection:
    """One connection for everything a worker asks of NATS."""

    def __init__(self, settings: NatsSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client = Client()
        self._transport: DirectTransport | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.problem = "not connected yet"

    @property
    def client(self) -> Client:
        """Return the library's client."""
        return self._client

    @property
    def up(self) -> bool:
        """Tell whether the server is connected."""
        return bool(self._client.is_connected)

    def on_up(self, callback: Callable[[], None]) -> None:
        """Call back when the connection is made (again)."""
        self._on_up.append(callback)

    def on_down(self, callback: Callable[[], None]) -> None:
        """Call back when the connection is lost."""
        self._on_down.append(callback)

    def start(self) -> None:
        """Begin to connect in the background."""
        self._task = asyncio.create_task(self._connect_first(), name="nats connect")

    async def connect_once(self) -> None:
        """Connect now.

        :raises Unavailable: the server is not there, or refuses.
        """
        settings = self._settings
        options: dict[str, Any] = {
            "user": settings.username or None,
            "password": settings.password or None,
            "token": settings.token or None,
            "user_credentials": settings.credentials_file or None,
            "tls": settings.tls,
        }
        urls = [part.strip() for part in settings.url.split(",")]
        self._client = Client()
        self._transport = put_under(self._client, urls)
        try:
            # The client that never gives up a lost connection never gives up a first one either.
            async with asyncio.timeout(FIRST_CONNECT_SECONDS):
                await self._client.connect(
                    servers=urls,
                    name=self._name,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_SECONDS,
                    connect_timeout=2,
                    ping_interval=settings.ping_interval_seconds,
                    max_outstanding_pings=2,
                    error_cb=self._on_error,
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._connected,
                    closed_cb=self._closed,
                    **{name: value for name, value in options.items() if value is not None},
                )
        except TimeoutError:
            raise Unavailable(f"NATS is away: {self.problem}") from None
        except (NatsError, OSError) as error:
            self.problem = str(error) or type(error).__name__
            raise Unavailable(f"NATS is away: {self.problem}") from None
        await self._connected()

    def subscriber(self, taker: Taker) -> Subscriber:
        """Return a subscription to begin, whose messages `taker` gets."""
        return Subscriber(self._client, self._transport, taker)

    def acknowledge(self, reply: str) -> None:
        """Publish an empty message: at once if that can be, before what was published earlier."""
        direct = self._transport
        if direct is None or not self.up or not direct.publish_empty(reply):
            self.publish(reply)

    def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Publish in the background what may be lost.

        :param failed: called if it was not sent.
        """
        task = asyncio.create_task(self._publish(subject, payload, reply, failed))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def request(
        self, subject: str, body: Mapping[str, object], timeout: float = API_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Ask the JetStream API.

        :param subject: after `$JS.API.`; `timeout` in seconds.
        :raises ApiError: the API refused.
        :raises Unavailable: no answer in time, or no connection.
        """
        if not self.up:
            raise Unavailable(f"NATS is away: {self.problem}")
        try:
            answer = await self._client.request(
                f"{API}.{subject}", json.dumps(body).encode() if body else b"", timeout=timeout
            )
        except (NatsError, OSError, TimeoutError) as error:
            problem = str(error) or type(error).__name__
            raise Unavailable(f"NATS does not answer: {problem}") from None
        reply: dict[str, Any] = json.loads(answer.data)
        if refused := reply.get("error"):
            raise ApiError(int(refused.get("err_code", 0)), str(refused.get("description", "")))
        return reply

    async def aclose(self) -> None:
        """Close, within two seconds."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(2):
                await self._client.close()
        except (NatsError, OSError, TimeoutError):
            log.info("nats did not close in time")

    async def _publish(
        self, subject: str, payload: bytes, reply: str, failed: Callable[[], None]
    ) -> None:
        try:
            await self._client.publish(subject, payload, reply=reply)
        except NatsError as error:
            log.debug("not sent", subject=subject, problem=str(error))
            failed()

    async def _connect_first(self) -> None:
        said = False
        while True:
            try:
                await self.connect_once()
            except Unavailable as problem:
                if not said:
                    log.warning("waiting for nats", problem=str(problem))
                said = True
                await asyncio.sleep(_RECONNECT_SECONDS * 2)
            else:
                return

    async def _connected(self) -> None:
        log.info("nats connected")
        _tell(self._on_up)

    async def _disconnected(self) -> None:
        if self._closing:
            return
        self.problem = "connection lost"
        log.warning("nats away", problem=self.problem)
        _tell(self._on_down)

    async def _on_error(self, error: Exception) -> None:
        self.problem = str(error) or type(error).__name__
        log.debug("nats error", problem=self.problem)

    async def _closed(self) -> None:
        if self._closing:
            return
        # A protocol error closes the library's client for good, whatever it was told.
        log.error("nats closed the connection for good: connecting anew", problem=self.problem)
        self.start()


def _tell(callbacks: list[Callable[[], None]]) -> None:
    """Call all: one that raised would keep the library from ever reconnecting."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("change of the nats connection not handled")
