"""The NATS connection: made and kept up in the background, with the API calls we need.

The library's defaults give up reconnecting after two minutes and see a frozen server after six;
here it never gives up, and a server that does not answer two pings is left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from daisi_ws.adapters.client_tls import client_context, why
from daisi_ws.adapters.nats_framing import Taker
from daisi_ws.adapters.nats_login import NatsLogin, credentials_login, nkey_login
from daisi_ws.adapters.nats_subscriber import Subscriber
from daisi_ws.adapters.nats_transport import DirectTransport, put_under
from daisi_ws.app.waiting import end_tasks
from daisi_ws.config import ClientTls, Nats, nats_tls
from daisi_ws.domain.errors import Unavailable

API: Final = "$JS.API"
API_TIMEOUT_SECONDS: Final = 2.0
FIRST_CONNECT_SECONDS: Final = 3.0
_RECONNECT_SECONDS: Final = 0.25

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """How to reach the server. `login` is for NKeys and credentials files."""

    url: str
    username: str = ""
    password: str = ""
    token: str = ""
    login: NatsLogin | None = None
    tls: ClientTls = field(default_factory=ClientTls)
    ping_interval_seconds: float = 5

    @classmethod
    def from_config(cls, nats: Nats) -> NatsSettings:
        """Take them from the section. The scheme `tls` means TLS, whatever `nats.tls` says.

        :raises OSError: a file cannot be read, or holds no certificate or key.
        :raises BadLogin: a file holds no NKey seed, or is no credentials file.
        """
        login = None
        if nats.credentials_file:
            login = credentials_login(nats.credentials_file)
        elif nats.nkey_seed_file:
            login = nkey_login(nats.nkey_seed_file)
        tls = nats_tls(nats)
        client_context(tls)
        return cls(
            url=nats.url,
            username=nats.username,
            password=nats.password,
            token=nats.token,
            login=login,
            tls=tls,
            ping_interval_seconds=nats.ping_interval_seconds,
        )


class ApiError(Exception):
    """The JetStream API refused.

    :param code: its `err_code` (https://docs.nats.io, "JetStream API errors").
    """

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} (NATS error {code})")
        self.code = code


class _Client(Client):  # type: ignore[misc] # the library is not typed
    """The library's client, which with TLS says nothing to a server that does not offer it.

    By itself it goes on in plain text, password included, where a server (or who stands between)
    does not say that it requires TLS. Certificates are read anew for each connection.
    """

    def __init__(self, tls: ClientTls, public_key: str) -> None:
        super().__init__()
        self._tls = tls
        if public_key:
            self._public_nkey = public_key

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        over_websocket = self._current_server and self._current_server.uri.scheme in ("ws", "wss")
        if initial_connection and self._tls.enabled and not over_websocket:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NatsError("the server does not offer TLS, which nats.tls demands")
            info["tls_required"] = True
            self.options["tls"] = client_context(self._tls)
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Any) -> None:
        # Where a connection made anew does not answer its first ping in time the library makes
        # another one; what read and wrote on the first would go on, on this one too.
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        if self._transport:
            self._transport.close()
        await super()._connect_to_server(s)


class NatsConnection:
    """One connection for everything a worker asks of NATS."""

    def __init__(self, settings: NatsSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client: Client = self._new_client()
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
            "signature_cb": settings.login and settings.login.sign,
            "user_jwt_cb": settings.login and settings.login.jwt,
        }
        urls = [part.strip() for part in settings.url.split(",")]
        self._client = self._new_client()
        self._transport = put_under(self._client, urls)
        try:
            options["tls"] = client_context(settings.tls)
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
            self.problem = _problem(error)
            raise Unavailable(f"NATS is away: {self.problem}") from None
        await self._connected()

    def _new_client(self) -> Client:
        login = self._settings.login
        return _Client(self._settings.tls, login.public_key if login else "")

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
        await end_tasks(self._task)
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
        self.problem = _problem(error)
        log.debug("nats error", problem=self.problem)

    async def _closed(self) -> None:
        if self._closing:
            return
        # A protocol error closes the library's client for good, whatever it was told.
        log.error("nats closed the connection for good: connecting anew", problem=self.problem)
        self.start()


def _problem(error: Exception) -> str:
    said = str(error) or type(error).__name__
    meaning = why(error, "nats.tls")
    return f"{meaning} ({said})" if meaning else said


def _tell(callbacks: list[Callable[[], None]]) -> None:
    """Call all: one that raised would keep the library from ever reconnecting."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("change of the nats connection not handled")
