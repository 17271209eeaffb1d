"""The cluster of `daisi-ws dev`: `daisi-ws serve` as a child process, with keys of its own."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from daisi_ws.config import Auth, Config, load
from daisi_ws.embedded import Servers
from daisi_ws.embedded.process import HOST, ServerProcess

POD_ID: Final = "dev"
STOP_SECONDS: Final = 10.0
_CONFIG: Final = """\
# Made by `daisi-ws dev`. The keys are throw-away ones: nothing outside this machine knows them.
server:
  http_host: {host}
  http_port: {port}
  grpc_host: {host}
  grpc_port: 0
  pod_id: {pod_id}
  workers: {workers}
nats:
  url: {nats}
  create_stream: true
redis:
  address: {redis}
log:
  format: text
auth:
  secret_token: {secret_token}
  token_aes_key: {token_aes_key}
  admin_secret_token: {admin_secret_token}
  admin_token_aes_key: {admin_token_aes_key}
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """The four secrets of a configuration."""

    secret_token: str
    token_aes_key: str
    admin_secret_token: str
    admin_token_aes_key: str

    @classmethod
    def new(cls) -> Keys:
        """Return random ones."""
        return cls(*(secrets.token_hex(32) for _ in range(4)))

    @classmethod
    def of(cls, auth: Auth) -> Keys:
        """Return those of a configuration."""
        return cls(
            auth.secret_token,
            auth.token_aes_key,
            auth.admin_secret_token,
            auth.admin_token_aes_key,
        )


class GatewayProcess(ServerProcess):
    """The supervisor and its workers, in their own folder with configuration and log.

    :param servers: Redis and NATS, running.
    :param folder: kept after the stop, with the keys; None: a private one.
    """

    name = "gateway"

    def __init__(
        self, servers: Servers, workers: int, *, port: int = 0, folder: Path | None = None
    ) -> None:
        super().__init__(folder, port, start_timeout=30.0)
        self._servers = servers
        self._workers = workers
        self._keys: Keys | None = None

    @property
    def config_file(self) -> Path:
        """The configuration it runs with."""
        return self.folder / "config.yaml"

    @property
    def url(self) -> str:
        """`http://host:port` of its public port."""
        return f"http://{self.address}"

    def header_file(self, kind: str) -> Path:
        """Return the file with the `X-API-Key` header of a kind of client, for `curl -H @FILE`."""
        return self.folder / f"{kind}.header"

    def config(self) -> Config:
        """Return the configuration it runs with."""
        return load(self.config_file, {}, {}).config

    def command(self) -> list[str]:
        """Write configuration and headers; return program and arguments."""
        keys = self._keys = self._keys or self._kept_keys() or Keys.new()
        text = _CONFIG.format(
            host=HOST,
            port=self.port,
            pod_id=POD_ID,
            workers=self._workers,
            nats=self._servers.nats.url,
            redis=self._servers.redis.address,
            secret_token=keys.secret_token,
            token_aes_key=keys.token_aes_key,
            admin_secret_token=keys.admin_secret_token,
            admin_token_aes_key=keys.admin_token_aes_key,
        )
        _write_private(self.config_file, text)
        _write_private(self.header_file("user"), f"X-API-Key: {keys.secret_token}\n")
        _write_private(self.header_file("admin"), f"X-API-Key: {keys.admin_secret_token}\n")
        return [sys.executable, "-m", "daisi_ws", "serve", "--config", str(self.config_file)]

    def probe(self, timeout: float) -> bool:
        """Return whether the worker that took this request is READY, and one of ours."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        try:
            connection.request("GET", "/ready")
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except http.client.HTTPException as error:
            raise ValueError("not a gateway") from error
        finally:
            connection.close()
        return answer.status == http.client.OK and str(body.get("pod", "")).startswith(POD_ID)

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End it quickly: clients that are still there have nowhere else to go.

        :param timeout: seconds until SIGKILL.
        """
        if self.running:
            # The first signal begins a drain, the second (another one: equal ones may merge)
            # makes it a quick stop.
            os.kill(self.pid, signal.SIGINT)
        super().stop(timeout)

    def _kept_keys(self) -> Keys | None:
        """Return the keys of an earlier run in the same folder: its tokens stay good."""
        return Keys.of(self.config().auth) if self.config_file.exists() else None


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
