"""A real nats-server with JetStream as a child process."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from pathlib import Path

from daisi_ws.embedded.binaries import find_nats_server
from daisi_ws.embedded.process import HOST, ServerProcess


class NatsServer(ServerProcess):
    """A NATS server whose JetStream keeps its streams in the folder; see `ServerProcess`.

    :ivar server_name: what it calls itself.
    :param config: more lines for the server's configuration file, such as `max_payload: 64KB`.
    """

    name = "nats-server"
    port_count = 2

    def __init__(
        self,
        folder: Path | None = None,
        port: int = 0,
        *,
        monitor_port: int = 0,
        base: Path | None = None,
        start_timeout: float = 10.0,
        config: str = "",
    ) -> None:
        super().__init__(folder, port, base=base, start_timeout=start_timeout)
        self._monitor_port = monitor_port
        self._config = config
        self.server_name = f"embedded-{secrets.token_hex(8)}"

    @property
    def url(self) -> str:
        """`nats://host:port` for clients."""
        return f"nats://{self.address}"

    @property
    def monitor_port(self) -> int:
        """The port of the monitoring endpoints; the one after the clients' if none was given."""
        return self._monitor_port or self.port + 1

    @property
    def monitor_url(self) -> str:
        """`http://host:port` of the monitoring endpoints."""
        return f"http://{HOST}:{self.monitor_port}"

    def command(self) -> list[str]:
        """Write the configuration file; return program and arguments."""
        file = self.folder / "nats.conf"
        file.write_text(
            f"server_name: {self.server_name}\n"
            f'listen: "{self.address}"\n'
            f'http: "{HOST}:{self.monitor_port}"\n'
            f"jetstream {{ store_dir: {json.dumps(str(self.folder))} }}\n"
            f"{self._config}\n"
        )
        return [str(find_nats_server()), "--config", str(file)]

    def probe(self, timeout: float) -> bool:
        """See :meth:`ServerProcess.probe`. It greets clients and says that JetStream is healthy."""
        with (
            socket.create_connection((HOST, self.port), timeout) as connection,
            connection.makefile("rb") as lines,
        ):
            greeting = lines.readline()
        if not greeting.startswith(b"INFO "):
            raise ValueError("not a NATS server")
        info = json.loads(greeting[5:])
        return info.get("server_name") == self.server_name and self._healthy(timeout)

    def _healthy(self, timeout: float) -> bool:
        connection = http.client.HTTPConnection(HOST, self.monitor_port, timeout=timeout)
        try:
            connection.request("GET", "/healthz?js-enabled-only=true")
            return connection.getresponse().status == http.client.OK
        except http.client.HTTPException:
            return False
        finally:
            connection.close()
