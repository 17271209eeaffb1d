"""What the values of several keys must be to one another, and to this machine.

Every rule names the keys it looks at. It is left out when one of them has already been refused,
so that one mistake is one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from daisi_ws.config.addresses import is_nats_url, is_origin, redis_address
from daisi_ws.config.keys import without_userinfo
from daisi_ws.config.problems import Problem, origin_of, quoted
from daisi_ws.config.rules_auth import key_problems
from daisi_ws.config.rules_order import out_of_order
from daisi_ws.config.rules_tls import tls_problems
from daisi_ws.config.schema import FIELDS, Config
from daisi_ws.domain.client_address import network

Wrong = tuple[str, str] | None
Check = Callable[[Config], Wrong]


def contradictions(
    config: Config, origins: Mapping[str, str], refused: AbstractSet[str]
) -> list[Problem]:
    """Every rule that the configuration breaks.

    :param origins: where the value of each dotted key comes from.
    :param refused: keys already found wrong; the rules about them are left out.
    """
    problems = list(out_of_order(config, origins, refused))
    for keys, rule in CHECKS:
        if refused.isdisjoint(keys) and (wrong := rule(config)) is not None:
            problems.append(Problem(keys[0], origin_of(keys, origins), *wrong))
    problems += key_problems(config, origins, refused)
    return problems + list(tls_problems(config, origins, refused))


def _ports(config: Config) -> Wrong:
    server = config.server
    last = server.grpc_port + 2 * server.workers - 1
    if server.grpc_port == 0:
        return None
    taken = f"{server.workers} workers take the gRPC ports {server.grpc_port} to {last}"
    if last > 65_535:
        return f"{taken}, but ports end at 65535", "a lower server.grpc_port or fewer workers"
    if server.grpc_port <= server.http_port <= last:
        return f"{taken}, and server.http_port {server.http_port} is one of them", "ranges apart"
    return None


def _metrics_port(config: Config) -> Wrong:
    server = config.server
    port, last = server.metrics_port, server.grpc_port + 2 * server.workers - 1
    if port and port == server.http_port:
        return "server.http_port is the same", "another port, or 0 to stay at that one"
    if port and server.grpc_port and server.grpc_port <= port <= last:
        return f"the workers take the gRPC ports {server.grpc_port} to {last}", "a port outside"
    return None


def _advertised(config: Config) -> Wrong:
    if config.server.advertise_host in ("0.0.0.0", "::", "[::]", "*"):
        return "no other host can reach that address", FIELDS["server.advertise_host"].right
    return None


def _origins(config: Config) -> Wrong:
    bad = [text for text in config.server.allowed_origins if not is_origin(text)]
    if bad:
        names = ", ".join(quoted(text) for text in bad)
        return f"{names}: not an origin", FIELDS["server.allowed_origins"].right
    return None


def _trusted_proxies(config: Config) -> Wrong:
    for text in config.server.trusted_proxies:
        try:
            network(text)
        except ValueError as error:
            return f"{quoted(text)}: {error}", FIELDS["server.trusted_proxies"].right
    if config.server.proxy_protocol and not config.server.trusted_proxies:
        return (
            "server.proxy_protocol is on, and there is nobody to believe",
            FIELDS["server.trusted_proxies"].right,
        )
    return None


def _proxy_protocol(config: Config) -> Wrong:
    if not (config.server.proxy_protocol and config.server.http_tls.enabled):
        return None
    # The header comes in plain text before TLS, where nothing of ours reads yet.
    return (
        "the PROXY protocol does not go together with server.http_tls",
        "one of them: TLS is ended either by the proxy or here",
    )


def _compression(config: Config) -> Wrong:
    if config.app.websocket_compression_mode == "disabled" or config.server.max_message_bytes:
        return None
    return (
        "compression is on, and 0 is no limit on what a small message may unpack to",
        "a limit, such as 65536, or app.websocket_compression_mode: disabled",
    )


def _nats_url(config: Config) -> Wrong:
    url = config.nats.url
    servers = [server.strip() for server in url.split(",")]
    # Shown as a whole: a comma may be a part of a password.
    shown = quoted(str(without_userinfo(url)))
    if not all(map(is_nats_url, servers)):
        return f"{shown} names no NATS server, or not only", FIELDS["nats.url"].right
    if len({server.lower().startswith("ws") for server in servers}) > 1:
        return f"{shown} names servers with and without WebSocket", "one or the other for all"
    return None


def _nats_url_login(config: Config) -> Wrong:
    used = _nats_logins(config)
    if used and "@" in config.nats.url:
        return (
            f"it has a login, and so has the section: {' and '.join(used)}",
            "the login in one of the two places",
        )
    return None


def _nats_logins(config: Config) -> list[str]:
    nats = config.nats
    ways = {
        "username and password": bool(nats.username or nats.password),
        "token": bool(nats.token),
        "credentials_file": bool(nats.credentials_file),
        "nkey_seed_file": bool(nats.nkey_seed_file),
    }
    return [way for way, is_used in ways.items() if is_used]


def _nats_login(config: Config) -> Wrong:
    nats, used = config.nats, _nats_logins(config)
    if len(used) > 1:
        return f"{' and '.join(used)} are both given", "one way to log in"
    if bool(nats.username) != bool(nats.password):
        return "one of username and password is missing", "both or none"
    return None


def _dead_letters(config: Config) -> Wrong:
    if config.nats.dead_letter_subject.split(".")[0] == "websocket":
        return (
            "dead letters would come back through the stream's own subjects, websocket.>",
            FIELDS["nats.dead_letter_subject"].right,
        )
    return None


def _redis_address(config: Config) -> Wrong:
    redis = config.redis
    try:
        found = redis_address(redis.address)
    except ValueError:
        address = quoted(str(without_userinfo(redis.address)))
        return f"{address} is not an address of Redis", FIELDS["redis.address"].right
    if found.db and redis.db and found.db != redis.db:
        return "it names another database than redis.db", "the number in one of the two"
    if found.kind == "cluster" and redis.db:
        return "a Redis Cluster has one database, and redis.db is another", "redis.db: 0"
    if (found.password and redis.password) or (found.username and redis.username):
        return "it has a login, and so has the section", "the login in one of the two places"
    return None


def _uses(*keys: str) -> tuple[str, ...]:
    return keys


_NATS_LOGIN = _uses(
    "nats.username",
    "nats.password",
    "nats.token",
    "nats.credentials_file",
    "nats.nkey_seed_file",
)

CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (_uses("server.grpc_port", "server.workers", "server.http_port"), _ports),
    (
        _uses("server.metrics_port", "server.http_port", "server.grpc_port", "server.workers"),
        _metrics_port,
    ),
    (_uses("server.advertise_host"), _advertised),
    (_uses("server.allowed_origins"), _origins),
    (_uses("server.trusted_proxies", "server.proxy_protocol"), _trusted_proxies),
    (_uses("server.proxy_protocol", "server.http_tls.enabled"), _proxy_protocol),
    (_uses("server.max_message_bytes", "app.websocket_compression_mode"), _compression),
    (_uses("nats.url"), _nats_url),
    (_uses("nats.url", *_NATS_LOGIN), _nats_url_login),
    (_NATS_LOGIN, _nats_login),
    (_uses("nats.dead_letter_subject"), _dead_letters),
    (_uses("redis.address", "redis.db", "redis.username", "redis.password"), _redis_address),
)
