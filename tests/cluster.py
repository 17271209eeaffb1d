"""Hosts as they run in production: `daisi-ws serve` as real processes on real servers."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.embedded import free_ports
from tests.processes import children, command_line

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
_LOG_LINES = 60


def _token_key() -> str:
    return secrets.token_hex(32)


def ports_needed(workers: int) -> int:
    """Return how many ports a host takes: one for HTTP, and two for gRPC per worker slot."""
    return 1 + 2 * workers


@dataclass(frozen=True)
class Keys:
    """The secrets of one cluster, and tokens made with them."""

    secret_token: str = field(default_factory=_token_key)
    admin_secret_token: str = field(default_factory=_token_key)
    token_aes_key: str = field(default_factory=_token_key)
    admin_token_aes_key: str = field(default_factory=_token_key)

    def environment(self) -> dict[str, str]:
        """Return the variables that configure a host with these secrets."""
        return {f"DAISI_WS_AUTH_{name.upper()}": str(value) for name, value in vars(self).items()}

    def user_token(self, company: str, agent: str, user: str, expires_in: float = 3600) -> str:
        """Return a user's token; `expires_in` in seconds, negative for an expired one."""
        content = {"company_id": company, "agent_id": agent, "user_id": user}
        return self._encode(self.token_aes_key, content, expires_in)

    def admin_token(self, admin: str, expires_in: float = 3600, /, **scope: str) -> str:
        """Return an admin's token.

        :param scope: `subscribed_company_id`, `subscribed_agent_id`, `company_id_restriction`.
        """
        return self._encode(self.admin_token_aes_key, {"admin_id": admin, **scope}, expires_in)

    def _encode(self, key: str, content: Mapping[str, str], expires_in: float) -> str:
        expires_at = datetime.now(UTC) + timedelta(seconds=expires_in)
        return AesGcmTokenCodec(key).encode({**content, "expires_at": expires_at.isoformat()})


class Host:
    """One supervisor with its workers, as a process of its own.

    :param folder: for the log and the process's temporary files.
    :param environment: more DAISI_WS_* variables, which win over those made here.
    :param first_port: first of `ports_needed(workers)` consecutive ports; 0: free ones.
    :param tls: what clients trust, if the environment turns on TLS toward them.
    """

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        nats_url: str,
        *,
        keys: Keys,
        name: str = "host",
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
        first_port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.tls = tls
        self.workers = workers
        self.http_port = first_port or free_ports(ports_needed(workers))
        self.grpc_port = self.http_port + 1
        self.folder = folder
        self.log_file = folder / f"{name}.log"
        self.environment = {
            "DAISI_WS_SERVER_HTTP_HOST": HOST,
            "DAISI_WS_SERVER_HTTP_PORT": str(self.http_port),
            "DAISI_WS_SERVER_GRPC_HOST": HOST,
            "DAISI_WS_SERVER_GRPC_PORT": str(self.grpc_port),
            "DAISI_WS_SERVER_ADVERTISE_HOST": HOST,
            "DAISI_WS_SERVER_POD_ID": name,
            "DAISI_WS_REDIS_ADDRESS": redis_url,
            "DAISI_WS_NATS_URL": nats_url,
            "DAISI_WS_NATS_CREATE_STREAM": "true",
            **keys.environment(),
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._command_line = ""
        self._seen_workers: set[int] = set()

    @property
    def base_url(self) -> str:
        """`http://host:port` that clients see, with TLS `https://host:port`."""
        return f"http{'s' if self.tls else ''}://{HOST}:{self.http_port}"

    @property
    def pid(self) -> int:
        """The supervisor's process ID."""
        assert self._process is not None, f"{self.name} is not started"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The supervisor's exit code, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def user_url(self, company: str, agent: str) -> str:
        """Return the URL of the user WebSocket, without key and token."""
        return f"{self.base_url}/ws/{company}/{agent}"

    def admin_url(self) -> str:
        """Return the URL of the admin WebSocket, without key and token."""
        return f"{self.base_url}/ws/admin"

    def command(self) -> list[str]:
        """Return program and arguments."""
        return [sys.executable, "-m", "daisi_ws", "serve", "--workers", str(self.workers)]

    def start(self) -> None:
        """Start the supervisor; the log goes on where an earlier life ended."""
        assert self._process is None, f"{self.name} is already started"
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._whole_environment(),
                start_new_session=True,
            )

    async def wait_ready(self, timeout: float = 20.0) -> None:
        """Return once every worker says READY.

        :raises AssertionError: the host ended, or `timeout` seconds have passed; with its log.
        """
        # Each connection reaches any one worker: so many in a row reach all of them.
        wanted, in_a_row = 8 * self.workers, 0
        deadline = time.monotonic() + timeout
        connector = aiohttp.TCPConnector(force_close=True, ssl=self.tls or True)
        limit = aiohttp.ClientTimeout(total=2.0)
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as session:
            while in_a_row < wanted:
                assert self.returncode is None, self.report(f"ended with {self.returncode}")
                assert time.monotonic() < deadline, self.report(f"not ready in {timeout:g} s")
                in_a_row = in_a_row + 1 if await self._is_ready(session) else 0
                if in_a_row == 0:
                    await asyncio.sleep(0.02)

    async def wait(self, timeout: float = 30.0) -> int:
        """Return the supervisor's exit code once it has ended.

        :raises AssertionError: `timeout` seconds have passed; with its log.
        """
        assert self._process is not None, f"{self.name} is not started"
        try:
            code = await asyncio.to_thread(self._process.wait, timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.report(f"did not end in {timeout:g} s")) from None
        self._process = None
        return code

    async def stop(self, timeout: float = 30.0) -> int:
        """Drain and end (SIGTERM); return the exit code."""
        self.signal(signal.SIGTERM)
        return await self.wait(timeout)

    async def kill(self) -> None:
        """Kill the supervisor (SIGKILL), as a crash would; its workers have to notice."""
        self.worker_pids()
        self.signal(signal.SIGKILL)
        await self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor; nothing happens if it has ended."""
        assert self._process is not None, f"{self.name} is not started"
        self._process.send_signal(number)

    def worker_pids(self) -> set[int]:
        """Return the process IDs of the living workers (they are forks: same command line)."""
        self._command_line = command_line(self.pid) or self._command_line
        workers = {pid for pid in children(self.pid) if self._is_ours(pid)}
        self._seen_workers |= workers
        return workers

    def log_text(self) -> str:
        """Return all that the host has printed."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def report(self, what: str) -> str:
        """Return a sentence about the host, and the end of its log."""
        tail = "\n".join(self.log_text().splitlines()[-_LOG_LINES:])
        return f"{self.name} {what}; the end of its log:\n{tail}"

    async def close(self) -> None:
        """End whatever is left: politely if it can be done in time, for the end of a test."""
        try:
            if self._process is not None:
                self.worker_pids()
                await self.stop()
        finally:
            if self._process is not None:
                await self.kill()
            for pid in filter(self._is_ours, self._seen_workers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        return bool(self._command_line) and command_line(pid) == self._command_line

    async def _is_ready(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.base_url}/ready") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _whole_environment(self) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith("DAISI_WS_")}
        own = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)}
        return {**ours, **own, **self.environment}


@dataclass(frozen=True)
class Cluster:
    """Hosts that share a Redis, a NATS and their secrets."""

    hosts: list[Host]
    keys: Keys


@asynccontextmanager
async def cluster(
    folder: Path,
    redis_url: str,
    nats_url: str,
    *,
    hosts: int = 2,
    workers: int = 2,
    environment: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Cluster]:
    """Run hosts until the block is left; all of them are READY when it is entered.

    If the block fails, the ends of their logs are printed.

    :param folder: for logs and temporary files, such as `tmp_path`.
    :param environment: more DAISI_WS_* variables, for all hosts.
    :param tls: see :class:`Host`.
    """
    keys, each = Keys(), ports_needed(workers)
    first = free_ports(hosts * each)
    members = [
        Host(
            folder,
            redis_url,
            nats_url,
            keys=keys,
            name=f"host-{number}",
            workers=workers,
            environment=environment,
            first_port=first + number * each,
            tls=tls,
        )
        for number in range(hosts)
    ]
    try:
        for host in members:
            host.start()
        await asyncio.gather(*(host.wait_ready() for host in members))
        yield Cluster(members, keys)
    except BaseException:
        for host in members:
            print(host.report("was part of it"))
        raise
    finally:
        await asyncio.gather(*(host.close() for host in members))
