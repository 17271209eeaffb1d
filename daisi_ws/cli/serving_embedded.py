"""Where the servers of `daisi-ws serve --embedded` listen, so that other commands find them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from structlog.typing import FilteringBoundLogger

from daisi_ws.config import FIELDS, ConfigError, Loaded, Problem, redis_target, value_of
from daisi_ws.embedded import Servers
from daisi_ws.embedded.ports import is_free

_REDIS, _NATS = "redis.address", "nats.url"
_LOGINS: Mapping[str, tuple[str, ...]] = {
    _REDIS: ("redis.username", "redis.password", "redis.tls.enabled"),
    _NATS: (
        "nats.username",
        "nats.password",
        "nats.token",
        "nats.credentials_file",
        "nats.nkey_seed_file",
        "nats.tls.enabled",
    ),
}
_HERE = ("127.0.0.1", "localhost")

logger: FilteringBoundLogger = structlog.get_logger()


def make_servers(loaded: Loaded, data: Path | None) -> Servers:
    """Make the servers, not started, at the addresses that are configured.

    Those who look for them, `publish` and `status` among them, read the same configuration. Where
    it leaves an address at its default and that is taken, any free port will do.

    :param data: where they keep their data; None: nowhere.
    :raises ConfigError: an address or a login is configured that such a server cannot have, or the
        port is taken.
    """
    config = loaded.config
    redis, nats = redis_target(config.redis), urlsplit(config.nats.url)
    problems = [
        *_not_ours(loaded, _REDIS, redis.host if redis.kind == "server" else None),
        *_not_ours(loaded, _NATS, nats.hostname if "," not in config.nats.url else None),
    ]
    if problems:
        raise ConfigError(problems)
    redis_port = _port(loaded, _REDIS, redis.port, problems)
    nats_port = _port(loaded, _NATS, nats.port or 4222, problems)
    if problems:
        raise ConfigError(problems)
    return Servers(data, redis_port=redis_port, nats_port=nats_port)


def flags_of(loaded: Loaded, servers: Servers) -> dict[str, object]:
    """Return the settings by which the workers use the servers."""
    flags: dict[str, object] = {_REDIS: servers.redis.address, _NATS: servers.nats.url}
    if loaded.config.nats.create_stream is None:
        flags["nats.create_stream"] = True
    return flags


def announce(loaded: Loaded, servers: Servers) -> None:
    """Say where they are, and how other commands find them if that is not as configured."""
    where: dict[str, str] = {}
    for key, value in ((_REDIS, servers.redis.address), (_NATS, servers.nats.url)):
        if value_of(loaded.config, key) != value:
            where[FIELDS[key].environment] = value
    found_by = {"other_commands_need": where} if where else {}
    logger.info(
        "embedded servers started",
        redis=servers.redis.address,
        nats=servers.nats.url,
        **found_by,
    )


def _not_ours(loaded: Loaded, key: str, host: str | None) -> list[Problem]:
    problems = []
    if host not in _HERE:
        wrong = "--embedded starts a server on 127.0.0.1, and this is somewhere else"
        problems.append(Problem(key, loaded.origins[key], wrong, _instead(key)))
    for login in _LOGINS[key]:
        if value_of(loaded.config, login):
            wrong = "the server that --embedded starts asks for no login and speaks no TLS"
            right = "leave it away, or start without --embedded"
            problems.append(Problem(login, loaded.origins[login], wrong, right))
    return problems


def _port(loaded: Loaded, key: str, port: int, problems: list[Problem]) -> int:
    """Return the port to listen on, 0 for a free one."""
    if is_free(port):
        return port
    if value_of(loaded.config, key) != FIELDS[key].default:
        wrong = f"port {port} is taken, --embedded cannot start a server there"
        problems.append(Problem(key, loaded.origins[key], wrong, _instead(key)))
    return 0


def _instead(key: str) -> str:
    return f"{FIELDS[key].default} with a free port, or start without --embedded to use it"
