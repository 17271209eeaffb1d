"""Configuration that changes under running workers: files, links, and what waits for a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.config import FIELDS, Value
from daisi_ws.embedded import NatsServer, RedisServer
from tests.cluster import Host, Keys
from tests.config.examples import HOT, as_file, with_partner
from tests.e2e.scene import until

# Secrets are in the environment of these hosts, which wins over the file.
CHANGED = {name: value for name, value in HOT.items() if "_previous" not in name}
CHANGED = {name: value for name, value in CHANGED.items() if not FIELDS[name].key.secret}
QUICK: Mapping[str, Value] = {"app.ping_interval_seconds": 0.2}
SECONDS = 30


class Mounted:
    """A folder as Kubernetes mounts a ConfigMap: every change swaps the link `..data`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._version = 0
        folder.mkdir()
        self.swap("")
        self.file = folder / "config.yaml"
        self.file.symlink_to("..data/config.yaml")

    def swap(self, text: str) -> None:
        """Put a new content in place at once."""
        self._version += 1
        name = f"..{self._version}"
        (self._folder / name).mkdir()
        (self._folder / name / "config.yaml").write_text(text)
        (self._folder / "..data_tmp").symlink_to(name)
        (self._folder / "..data_tmp").rename(self._folder / "..data")


@asynccontextmanager
async def host_of(
    folder: Path, redis: RedisServer, nats: NatsServer, file: Path, **environment: str
) -> AsyncIterator[Host]:
    """Run a host of two workers with a configuration file."""
    host = Host(
        folder,
        redis.url,
        nats.url,
        keys=Keys(),
        environment={"DAISI_WS_CONFIG": str(file), **environment},
    )
    try:
        host.start()
        await host.wait_ready()
        yield host
    finally:
        await host.close()


def lines(host: Host, event: str) -> list[dict[str, Any]]:
    """Return the lines of an event."""
    found = [json.loads(line) for line in host.log_text().splitlines() if event in line]
    return [line for line in found if line["event"] == event]


async def applied(host: Host, times: int) -> list[dict[str, Any]]:
    """Return what both workers said of the last reload, once there were so many."""

    async def said() -> bool:
        return len(by_workers(host)) == 2 * times

    await until(said, SECONDS, host.report(f"not reloaded {times} times"))
    return by_workers(host)[-2:]


def by_workers(host: Host) -> list[dict[str, Any]]:
    """Return the lines of workers that have reloaded."""
    return [line for line in lines(host, "configuration reloaded") if "pod_id" in line]


async def recorded(server: RedisServer) -> list[list[str]]:
    """Return what each pod's record says that waits."""
    async with Redis.from_url(server.url) as store:
        ids = [f"pod:{pod.decode()}" for pod in await store.smembers("pods")]  # type: ignore[union-attr]  # replies are bytes
        records = await store.mget(ids) if ids else []
    return [sorted(json.loads(record)["waits"]) for record in records if record is not None]


def waiting(host: Host) -> dict[str, str]:
    """Return what `daisi-ws status --json` says that waits on the host."""
    command = [sys.executable, "-m", "daisi_ws", "status", "--json"]
    answer = subprocess.run(
        command, env=host._whole_environment(), capture_output=True, text=True, check=False
    )
    return dict(json.loads(answer.stdout)["hosts"][host.name]["waits_for_restart"])


async def test_a_swapped_configmap_applies_to_who_is_connected(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Nobody signals and nobody is disconnected; every hot key can be changed so, all at once."""
    mounted = Mounted(tmp_path / "mounted")
    async with (
        host_of(tmp_path, fresh_redis, fresh_nats, mounted.file) as host,
        aiohttp.ClientSession() as session,
    ):
        keys = Keys(**{n: host.environment[f"DAISI_WS_AUTH_{n.upper()}"] for n in vars(Keys())})
        headers = {"X-API-Key": keys.secret_token}
        url = f"{host.user_url('acme', 'bot')}?token={keys.user_token('acme', 'bot', 'ann')}"
        async with session.ws_connect(url, headers=headers, autoping=False) as client:
            assert (await client.receive_json(timeout=SECONDS))["type"] == "ready"
            mounted.swap(as_file(CHANGED))
            for line in await applied(host, 1):
                assert line["hot"] == [name for name in FIELDS if name in CHANGED]
                assert line["waits_for_restart"] == []
            mounted.swap(as_file(QUICK))
            await applied(host, 2)
            ping = await client.receive(timeout=SECONDS)
            assert ping.type is aiohttp.WSMsgType.PING
        assert len(lines(host, "configuration changed")) == 2


async def test_a_broken_file_changes_nothing_and_is_told_once(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """The line names the key; a worker that dies meanwhile is replaced; mended, it applies."""
    file = tmp_path / "config.yaml"
    file.write_text("")
    async with host_of(tmp_path, fresh_redis, fresh_nats, file) as host:
        file.write_text("app:\n  ping_interval_seconds: soon\n")

        async def refused() -> bool:
            return bool(lines(host, "reload refused, nothing changed"))

        await until(refused, SECONDS, host.report("did not notice"))
        os.kill(min(host.worker_pids()), signal.SIGKILL)

        async def replaced() -> bool:
            return bool(lines(host, "started with the last good configuration"))

        await until(replaced, SECONDS, host.report("did not replace the worker"))
        await host.wait_ready(SECONDS)
        # By now the file was looked at again and again.
        (line,) = lines(host, "reload refused, nothing changed")
        (problem,) = line["problems"]
        assert problem.startswith(f"app.ping_interval_seconds ({file}:2): ")
        assert by_workers(host) == []
        file.write_text(as_file(QUICK))
        for line in await applied(host, 1):
            assert line["hot"] == ["app.ping_interval_seconds"]


async def test_status_shows_what_waits_for_which_restart(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """A rolling restart settles what is the workers'; ports are the supervisor's."""
    file = tmp_path / "config.yaml"
    file.write_text("")
    async with host_of(tmp_path, fresh_redis, fresh_nats, file) as host:
        assert waiting(host) == {}
        file.write_text(as_file({"nats.max_outstanding": 1000, "log.format": "text"}))
        await applied(host, 1)
        both = {"nats.max_outstanding": "restart", "log.format": "full restart"}

        async def told(what: dict[str, str]) -> bool:
            return await recorded(fresh_redis) == [sorted(what)] * 2

        await until(lambda: told(both), SECONDS, host.report("does not tell what waits"))
        assert waiting(host) == both
        host.signal(signal.SIGUSR2)
        left = {"log.format": "full restart"}
        await until(lambda: told(left), SECONDS, host.report("does not tell what waits still"))
        assert waiting(host) == left


async def test_a_secret_in_a_file_changes_without_a_restart(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """A Kubernetes Secret that is mounted is watched like the configuration itself."""
    secret = tmp_path / "api-key"
    secret.write_text("first-api-key-0123456789\n")
    file = tmp_path / "config.yaml"
    file.write_text("")
    variables = {
        "DAISI_WS_AUTH_SECRET_TOKEN": "",
        "DAISI_WS_AUTH_SECRET_TOKEN_FILE": str(secret),
    }
    async with host_of(tmp_path, fresh_redis, fresh_nats, file, **variables) as host:
        secret.write_text("other-api-key-0123456789\n")
        for line in await applied(host, 1):
            assert line["hot"] == ["auth.secret_token"]


def secrets_file(keys: Keys, old: Keys | None = None) -> str:
    """Return a configuration with these secrets, those before them accepted as well."""
    values: dict[str, Value] = {f"auth.{name}": secret for name, secret in vars(keys).items()}
    for name, secret in vars(old).items() if old else ():
        values |= with_partner(f"auth.{name}_previous", secret)
    return as_file(values)


async def status_of(session: aiohttp.ClientSession, host: Host, key: str, token: str) -> int:
    """Return the HTTP status that an upgrade is answered with, 101 if it succeeds."""
    url = f"{host.user_url('acme', 'bot')}?token={token}"
    try:
        async with session.ws_connect(url, headers={"X-API-Key": key}):
            return 101
    except aiohttp.WSServerHandshakeError as refusal:
        return refusal.status


async def counted(session: aiohttp.ClientSession, host: Host, key: str) -> float:
    """Return how often a previous key was counted."""
    async with session.get(f"{host.base_url}/metrics") as answer:
        text = await answer.text()
    name = f'dws_auth_previous_key_total{{key="{key}"}} '
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])


async def test_keys_change_without_a_disconnect(
    tmp_path: Path, fresh_redis: RedisServer, fresh_nats: NatsServer
) -> None:
    """Old keys and tokens go on for a time, new ones are made and taken; then the old ones end."""
    old, new = Keys(), Keys()
    file = tmp_path / "config.yaml"
    file.write_text(secrets_file(old))
    blank = {f"DAISI_WS_AUTH_{name.upper()}": "" for name in vars(old)}
    async with (
        host_of(tmp_path, fresh_redis, fresh_nats, file, **blank) as host,
        aiohttp.ClientSession() as session,
    ):
        before = old.user_token("acme", "bot", "ann")
        url = f"{host.user_url('acme', 'bot')}?token={old.user_token('acme', 'bot', 'eve')}"
        async with session.ws_connect(url, headers={"X-API-Key": old.secret_token}) as staying:
            await staying.receive_json(timeout=SECONDS)
            file.write_text(secrets_file(new, old))
            await applied(host, 1)
            asked = {"company_id": "acme", "agent_id": "bot", "user_id": "bob"}
            async with session.post(
                f"{host.base_url}/generate-token",
                json={**asked, "expires_in_seconds": 60},
                headers={"X-API-Key": old.secret_token},
            ) as answer:
                made = (await answer.json())["token"]
            assert AesGcmTokenCodec(new.token_aes_key).decode(made)
            for key in (old.secret_token, new.secret_token):
                for token in (before, made):
                    assert await status_of(session, host, key, token) == 101
            assert await counted(session, host, "secret_token") == 3
            assert await counted(session, host, "token_aes_key") == 2
            file.write_text(secrets_file(new))
            await applied(host, 2)
            assert await status_of(session, host, old.secret_token, made) == 401
            assert await status_of(session, host, new.secret_token, before) == 403
            assert await status_of(session, host, new.secret_token, made) == 101
            await staying.send_json({"type": "select_chat", "id": "1", "payload": {"chat_id": "c"}})
            assert (await staying.receive_json(timeout=SECONDS))["type"] == "done"
        text = host.log_text()
        assert not [s for keys in (old, new) for s in vars(keys).values() if s in text]
