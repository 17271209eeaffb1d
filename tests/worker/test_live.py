"""A reload reaches every part of a worker that uses a key."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import structlog

from daisi_ws import log as logs
from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.app.connection import Connection
from daisi_ws.cli.serving import timings_of
from daisi_ws.config import FIELDS, ConfigError, Value, load, testing_config, value_of, values_of
from daisi_ws.domain import principal
from daisi_ws.domain.principal import Kind
from daisi_ws.domain.slots import ConfigSource, WorkerContext
from daisi_ws.worker.live import LiveConfig, configuration_at_start
from daisi_ws.worker.parts import Parts
from tests.config.examples import HOT, another, as_file, with_partner

REQUIRED = {
    name: value_of(testing_config(), name) for name, field in FIELDS.items() if field.required
}
INTEREST = "websocket.acme.bot.messages.c"


class Worker:
    """The parts of a worker that reads its configuration from a file; nothing is started."""

    def __init__(self, file: Path, listener: socket.socket) -> None:
        self.file = file
        file.write_text(as_file(REQUIRED))
        source = ConfigSource(file, {}, {})
        config, problem = configuration_at_start(source)
        assert problem is None
        context = WorkerContext(
            slot=0,
            workers=1,
            generation=1,
            lane=0,
            pod_id="host-0-1",
            predecessor=None,
            grpc_port=1,
            supervisor_id="s",
            supervisor_pid=1,
            lifeline_fd=-1,
            report_fd=-1,
            listener=listener,
        )
        self.live = LiveConfig(config, source)
        self.parts = Parts(self.live, context)
        who = principal.user("acme", "bot", "ann", 1e12)
        self.connection = Connection(
            connection_id="c",
            pod_id="host-0-1",
            principal=who,
            request_id="r",
            outbox=self.parts._outbox(),
            queue=self.parts.delivery.queue,
        )
        self.parts.hub.join(self.connection)

    def reload(self, values: Mapping[str, Value]) -> None:
        """Write the file and read it."""
        self.file.write_text(as_file({**REQUIRED, **values}))
        self.live.reload()

    def route_ttl(self, active: bool) -> float:
        """Return how long a thread's route lives, a moment or long after it was asked for."""
        return self.parts._route_ttl(INTEREST, time.monotonic() - (0 if active else 86_000))


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker at its defaults."""
    level, wrapper = logging.getLogger().level, structlog.get_config()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Worker(tmp_path / "config.yaml", listener)
    logs.set_level("info")
    logging.getLogger().setLevel(level)
    structlog.configure(**wrapper)


# Where the running value of a key is used; of the others, what the parts ask for each time.
USED: Mapping[str, Callable[[Worker], object]] = {
    "server.worker_timeout_seconds": lambda w: timings_of(w.live()).silence,
    "server.boot_timeout_seconds": lambda w: timings_of(w.live()).boot,
    "server.allowed_origins": lambda w: w.parts.http._settings().allowed_origins,
    "server.handshake_timeout_seconds": lambda w: w.parts.http._settings().handshake_timeout,
    "server.max_message_bytes": lambda w: w.parts.http._settings().max_message_bytes,
    "server.max_messages_per_second": lambda w: w.parts.http._settings().max_messages_per_second,
    "server.message_burst": lambda w: w.parts.http._settings().message_burst,
    "auth.token_aes_key": lambda w: opener(w, "user", "token_aes_key"),
    "auth.token_aes_key_previous": lambda w: opener(w, "user", "token_aes_key_previous", 1),
    "auth.admin_token_aes_key": lambda w: opener(w, "admin", "admin_token_aes_key"),
    "auth.admin_token_aes_key_previous": (
        lambda w: opener(w, "admin", "admin_token_aes_key_previous", 1)
    ),
    "app.route_ttl_seconds": lambda w: w.parts._route_ttl("websocket.acme.bot.chats", 0),
    "app.pod_lease_seconds": lambda w: w.parts.membership._lease(),
    "app.pod_lease_refresh_seconds": lambda w: w.parts.membership._refresh(),
    "app.barrier_timeout_seconds": lambda w: w.parts.interests._timeout(),
    "app.connect_timeout_seconds": lambda w: w.parts.admission._timeout(),
    "app.token_expiry_warning_seconds": lambda w: w.parts.heart._settings().expiry_warning,
    "app.ping_interval_seconds": lambda w: w.parts.heart._settings().ping_interval,
    "app.pong_wait_seconds": lambda w: w.parts.heart._settings().pong_wait,
    "app.write_timeout_seconds": lambda w: w.parts.heart._settings().write_timeout,
    "app.websocket_slow_client_latency_ms": (
        lambda w: round(w.parts.heart._settings().slow_after * 1000)
    ),
    "app.websocket_slow_client_disconnect_threshold_ms": (
        lambda w: round(w.parts.heart._settings().slow_close * 1000)
    ),
    "app.websocket_message_buffer_size": lambda w: w.connection.outbox.max_count,
    "app.websocket_max_buffer_bytes": lambda w: w.connection.outbox.max_bytes,
    "app.websocket_backpressure_drop_policy": lambda w: w.connection.outbox.policy,
    "app.grpc_client_forward_timeout_seconds": lambda w: w.parts.legacy._settings.forward_timeout,
    "app.grpc_pool_idle_timeout_seconds": lambda w: w.parts.legacy._settings.idle_timeout,
    "app.grpc_pool_health_check_interval_seconds": (
        lambda w: w.parts.peers._context.settings.health_interval
    ),
    "app.grpc_circuitbreaker_fail_threshold": (
        lambda w: w.parts.peers._context.settings.fail_threshold
    ),
    "app.grpc_circuitbreaker_open_duration_seconds": (
        lambda w: w.parts.peers._context.settings.open_duration
    ),
    "resume.max_events": lambda w: w.parts.replays._settings().max_events,
    "resume.max_bytes": lambda w: w.parts.replays._settings().max_bytes,
    "resume.max_age_seconds": lambda w: w.parts.resumption._settings().max_age_seconds,
    "resume.pod_max_bytes": lambda w: w.parts.replays._settings().pod_max_bytes,
    "resume.timeout_seconds": lambda w: w.parts.replays._settings().timeout_seconds,
    "adaptive_ttl.message_route.min_seconds": lambda w: w.route_ttl(active=False),
    "adaptive_ttl.message_route.max_seconds": lambda w: w.route_ttl(active=True),
}


def opener(worker: Worker, kind: Kind, key: str, number: int = 0) -> object:
    """Return a token key if it is the one that opens tokens there; what opens them otherwise."""
    openers = worker.parts.authenticator._openers[kind]
    value = str(value_of(worker.live(), f"auth.{key}"))
    if number == len(openers):
        return ""
    token = AesGcmTokenCodec(value).encode({})
    return value if openers[number].key.codec.decode(token) else openers


def used(worker: Worker, key: str) -> object:
    """Return the value of a key that a worker runs with."""
    return USED[key](worker) if key in USED else value_of(worker.live(), key)


async def test_every_hot_key_reaches_who_uses_it(worker: Worker) -> None:
    """Each is changed by itself and back again; nothing waits, nothing else changes."""
    assert set(USED) <= set(HOT)
    before = values_of(worker.live())
    for key, value in HOT.items():
        worker.reload(with_partner(key, value))
        assert (used(worker, key), key) == (value, key)
        assert worker.live.waits == []
        worker.reload({})
        assert (used(worker, key), key) == (before[key], key)
    assert values_of(worker.live()) == before


async def test_every_other_key_waits(worker: Worker) -> None:
    """The running value stays, the key is named as waiting; where a file alone can change it."""
    before = worker.live()
    waited = set()
    for key, field in FIELDS.items():
        if field.key.hot or (value := another(field)) is None:
            continue
        try:
            worker.file.write_text(as_file({**REQUIRED, key: value}))
            load(worker.file, {}, {})
        except ConfigError:
            continue  # such as TLS without its files
        worker.live.reload()
        assert (worker.live.waits, worker.live()) == ([key], before)
        waited.add(key)
    assert {"server.http_port", "nats.url", "redis.db", "nats.max_outstanding"} <= waited
    worker.reload({})
    assert worker.live.waits == []


async def test_log_level_changes_what_is_written(worker: Worker) -> None:
    """At once, for loggers that exist."""
    logs.set_level("info")
    logger = structlog.get_logger()
    logs.setup("info", "json")
    assert not logger.is_enabled_for(logging.DEBUG)
    worker.reload({"log.level": "debug"})
    assert logger.is_enabled_for(logging.DEBUG)


async def test_a_broken_file_changes_nothing(worker: Worker) -> None:
    """Not even what is right in it."""
    before = worker.live()
    worker.file.write_text("app: {ping_interval_seconds: 7, pong_wait_seconds: -1}")
    worker.live.reload()
    assert worker.live() is before


def test_a_worker_born_while_the_file_is_broken_takes_the_last_good_one(tmp_path: Path) -> None:
    """The supervisor hands it on; without one the worker cannot start."""
    file = tmp_path / "config.yaml"
    file.write_text("app: {")
    good = values_of(testing_config(app__ping_interval_seconds=7))
    config, problem = configuration_at_start(ConfigSource(file, {}, {}, good=good))
    assert config.app.ping_interval_seconds == 7
    assert problem is not None
    with pytest.raises(ConfigError):
        configuration_at_start(ConfigSource(file, {}, {}))


def test_a_worker_knows_what_waits_for_its_supervisor(tmp_path: Path) -> None:
    """Ports and the like are the supervisor's, also for a worker that is born later."""
    file = tmp_path / "config.yaml"
    changed: dict[str, Value] = {"server.http_port": 82, "server.max_header_bytes": 3000}
    file.write_text(as_file({**REQUIRED, **changed}))
    source = ConfigSource(file, {}, {}, started=values_of(testing_config()))
    config, _ = configuration_at_start(source)
    live = LiveConfig(config, source)
    assert (live().server.http_port, live().server.max_header_bytes) == (8080, 3000)
    assert "server.http_port" in live.waits
    assert "server.max_header_bytes" not in live.waits
