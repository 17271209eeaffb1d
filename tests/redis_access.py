"""How the Redis servers of a test are reached: as they come, or by TLS and logins."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from daisi_ws.config import ClientTls
from daisi_ws.config import Redis as RedisSettings
from daisi_ws.embedded import RedisServer
from daisi_ws.embedded.authority import Authority
from daisi_ws.embedded.binaries import find_redis_server
from daisi_ws.embedded.process import HOST
from tests.documents import OPERATIONS, blocks
from tests.tools import tool

OPERATOR: Final = "a-password-of-the-servers"
GATEWAY: Final = "a-password-nobody-may-see"
AT_SENTINELS: Final = "another-password-nobody-may-see"

Option = tuple[str, ...]


class Access:
    """In the clear, without login."""

    scheme = "redis"
    host = HOST

    def program(self) -> str:
        """Return the path of a redis-server that can do it; the test is skipped without one."""
        return str(find_redis_server())

    def options(self, port: int) -> list[Option]:
        """Return options of a server, each with its values."""
        return [("port", str(port))]

    def logins(self) -> list[Option]:
        """Return options of a server that gateways may log in to, and other servers."""
        return []

    def sentinel_logins(self, service: str) -> list[Option]:
        """Return options of a Sentinel: who may log in, and how it does at servers and others."""
        return []

    def cluster_options(self) -> list[Option]:
        """Return options of a node of a Redis Cluster."""
        return []

    def environment(self, address: str) -> dict[str, str]:
        """Return variables of a host that goes to an address by it."""
        return {"DAISI_WS_REDIS_ADDRESS": address}

    def client(self, port: int) -> Redis:
        """Return a client that may do everything."""
        return Redis(host=self.host, port=port, decode_responses=True, protocol=3, socket_timeout=2)


class Secured(Access):
    """By TLS only, with a Redis that was built with it, and logins.

    :param folder: for the certificates.
    :param mutual: clients have to show a certificate.
    :param names: what the servers' certificate names; they are reached by the first.
    :param age: how long it has been good already; it is for a day.
    """

    scheme = "rediss"

    def __init__(
        self,
        folder: Path,
        *,
        mutual: bool = False,
        names: Sequence[str] = (HOST,),
        age: timedelta = timedelta(0),
    ) -> None:
        self.host = names[0]
        self.authority = Authority(folder / "redis")
        self._mutual = mutual
        begins, day = datetime.now(UTC) - timedelta(minutes=5) - age, timedelta(days=1)
        self._server = self.authority.issue("server", names, begins=begins, lasts=day)
        self._client = self.authority.issue("client")

    def program(self) -> str:
        """See :meth:`Access.program`."""
        return tool("redis-server-tls")

    def options(self, port: int) -> list[Option]:
        """See :meth:`Access.options`."""
        return [
            ("port", "0"),
            ("tls-port", str(port)),
            ("tls-cert-file", str(self._server.cert_file)),
            ("tls-key-file", str(self._server.key_file)),
            ("tls-ca-cert-file", str(self.authority.pair.cert_file)),
            ("tls-auth-clients", "yes" if self._mutual else "no"),
            ("tls-replication", "yes"),
        ]

    def logins(self) -> list[Option]:
        """See :meth:`Access.logins`. The gateway's is what the documents say is enough."""
        return [
            ("user", "default", "off"),
            ("user", "operator", "on", f">{OPERATOR}", "~*", "&*", "+@all"),
            ("user", "gateway", "on", f">{GATEWAY}", "~*", *allowed(0), *allowed(1)),
            ("masteruser", "operator"),
            ("masterauth", OPERATOR),
        ]

    def sentinel_logins(self, service: str) -> list[Option]:
        """See :meth:`Access.sentinel_logins`."""
        return [
            ("user", "default", "off"),
            ("user", "operator", "on", f">{OPERATOR}", "&*", "+@all"),
            ("user", "lookup", "on", f">{AT_SENTINELS}", *allowed(2)),
            ("sentinel", "sentinel-user", "operator"),
            ("sentinel", "sentinel-pass", OPERATOR),
            ("sentinel", "auth-user", service, "operator"),
            ("sentinel", "auth-pass", service, OPERATOR),
        ]

    def cluster_options(self) -> list[Option]:
        """See :meth:`Access.cluster_options`."""
        name = [("cluster-announce-hostname", self.host)] if self.host != HOST else []
        kind = "ip" if self.host == HOST else "hostname"
        return [("tls-cluster", "yes"), ("cluster-preferred-endpoint-type", kind), *name]

    def client(self, port: int) -> Redis:
        """See :meth:`Access.client`."""
        return Redis(
            host=self.host,
            port=port,
            decode_responses=True,
            protocol=3,
            socket_timeout=2,
            username="operator",
            password=OPERATOR,
            ssl=True,
            ssl_cert_reqs=ssl.CERT_NONE,  # whether it is the right one is for others to say
            ssl_check_hostname=False,
            ssl_certfile=str(self._client.cert_file),
            ssl_keyfile=str(self._client.key_file),
        )

    def settings(self, address: str, **more: Any) -> RedisSettings:
        """Return a section `redis` that is let in, with other values for some of its keys."""
        tls = ClientTls(
            ca_file=str(self.authority.pair.cert_file),
            cert_file=str(self._client.cert_file),
            key_file=str(self._client.key_file),
        )
        given: dict[str, Any] = {
            "username": "gateway",
            "password": GATEWAY,
            "sentinel_username": "lookup",
            "sentinel_password": AT_SENTINELS,
            "tls": tls,
        }
        return RedisSettings(address=address, timeout_ms=2000, **(given | more))

    def environment(self, address: str) -> dict[str, str]:
        """See :meth:`Access.environment`."""
        settings = self.settings(address)
        names = ("address", "username", "password", "sentinel_username", "sentinel_password")
        values = {f"DAISI_WS_REDIS_{name.upper()}": getattr(settings, name) for name in names}
        for name in ("ca_file", "cert_file", "key_file"):
            values[f"DAISI_WS_REDIS_TLS_{name.upper()}"] = getattr(settings.tls, name)
        return values


def allowed(number: int) -> list[str]:
    """Return the rules of an ACL user from the documents' blocks of them."""
    rules = blocks(OPERATIONS, "text")[number].split()
    return [rule for rule in rules if rule != "+client|setinfo"]  # which Redis 7.0 has not


class AccessedServer(RedisServer):
    """A Redis that is reached by an access.

    :param options: more options of redis-server.
    """

    def __init__(self, access: Access, options: Sequence[Option] = (), *, port: int = 0) -> None:
        super().__init__(port=port, start_timeout=30.0)
        self.access = access
        self._more = options

    def options(self) -> list[Option]:
        """Return its options, each with its values."""
        return [*self.access.options(self.port), *self.access.logins(), *self._more]

    def command(self) -> list[str]:
        """Return program and arguments."""
        words = [word for name, *values in self.options() for word in (f"--{name}", *values)]
        return [self.access.program(), *super().command()[1:], *words]

    def probe(self, timeout: float) -> bool:
        """Return whether the process that we started answers."""
        with self.access.client(self.port) as client:
            try:
                return bool(client.info("server")["process_id"] == self.pid)
            except RedisError as error:
                raise OSError(str(error)) from error
