"""The README: its blocks of commands are run, in order, in a clone of the project.

Real are the scripts, Python, pip, Redis, NATS and the gateway. What a person would fill in is
filled in: keys, and where the servers and free ports of this machine are.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.cluster import Host, Keys
from tests.documents import README, ROOT, blocks
from tests.e2e.scene import until
from tests.ops.clone import clone_into
from tests.ops.dockerfile import environment

NOT_RUN: Final = {"scripts/test": "it is what runs this test"}
"""Commands of the README that are left out, and why."""

SECONDS: Final = 240.0
CURL: Final = f"""#!{sys.executable}
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[-1], timeout=10).read().decode())
"""

EXPORTED: Final = re.compile(r"(?m)^export .+$")

pytestmark = pytest.mark.timeout(600)


class Terminal:
    """A shell in a clone, in which pip takes what it needs from what is there already.

    :param more: variables that are set in it.
    """

    def __init__(self, folder: Path, more: Mapping[str, str]) -> None:
        self.clone = clone_into(folder)
        self._folder = folder
        self._count = 0
        tools = folder / "tools"
        tools.mkdir()
        if shutil.which("curl") is None:
            (tools / "curl").write_text(CURL)
            (tools / "curl").chmod(0o755)
        base = environment()
        self._environment = {
            **base,
            "PATH": f"{self.clone}/.venv/bin:{base['PATH']}:{tools}",
            "PYTHON": sys.executable,
            **more,
        }

    async def run(self, commands: str) -> str:
        """Run commands, each of which ends by itself and well; return what they print."""
        async with self._shell(commands) as (process, said):
            async with asyncio.timeout(SECONDS):
                await process.wait()
        return said.read_text()

    @asynccontextmanager
    async def serving(self, commands: str) -> AsyncIterator[Path]:
        """Run commands whose last one serves until Ctrl-C, which comes when the block is left.

        Gives the file with what they print.
        """
        async with self._shell(commands) as (process, said):
            yield said
            os.killpg(process.pid, signal.SIGINT)

    @asynccontextmanager
    async def _shell(self, commands: str) -> AsyncIterator[tuple[Process, Path]]:
        """Run commands; when the block is left they have to end well."""
        self._count += 1
        said = self._folder / f"said-{self._count}.txt"
        with said.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-euc", commands),
                cwd=self.clone,
                env=self._environment,
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield process, said
            async with asyncio.timeout(SECONDS):
                code = await process.wait()
            assert code == 0, f"{commands}\nended with {code}"
        except BaseException:
            print(f"{commands}\n{said.read_text(errors='replace')}")
            raise
        finally:
            _end(process.pid)
            await process.wait()


def _end(session: int) -> None:
    """End what is left of a shell's processes."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGTERM)


async def until_said(what: str, said: Path) -> None:
    """Wait until something was printed."""

    async def found() -> bool:
        return what in await asyncio.to_thread(said.read_text, errors="replace")

    await until(found, SECONDS, f"{what!r} was not said")


def without(block: str, left_out: Iterable[str]) -> str:
    """Return a block without commands that are in it."""
    lines = block.splitlines()
    assert set(left_out) <= set(lines), f"the README does not say {left_out!r} any more"
    return "\n".join(line for line in lines if line not in left_out)


def edited(text: str, changes: Mapping[str, str]) -> str:
    """Return a text in which each of these was there, and was replaced."""
    for old, new in changes.items():
        assert old in text, f"the README does not say {old!r} any more"
        text = text.replace(old, new)
    return text


async def test_every_block_of_commands(tmp_path: Path, redis_url: str, nats_url: str) -> None:
    """What it says can be typed as it stands there, from the first command to `status`."""
    host = Host(tmp_path, redis_url, nats_url, keys=Keys(), workers=4)
    ports = {
        name: value
        for name, value in host.environment.items()
        if name.endswith(("_HTTP_PORT", "_GRPC_PORT", "_CREATE_STREAM"))
    }
    terminal = Terminal(tmp_path, ports)
    two_commands, production, watch = blocks(README, "sh")

    async with terminal.serving(without(two_commands, NOT_RUN)) as said:
        await until_said("worker 1: READY", said)
    assert re.search(r"all \d+ deliveries arrived, each once and in order", said.read_text())

    install, end, serve = production.partition("> config.yaml\n")
    await terminal.run(install + end)
    file = terminal.clone / "config.yaml"
    assert "\nnats:\n" in file.read_text()
    (settings,) = blocks(README, "yaml")
    servers = {
        "10.0.3.17": "127.0.0.1",
        "nats://nats-1:4222,nats://nats-2:4222": nats_url,
        "redis:6379": redis_url,
    }
    file.write_text(edited(settings, servers))
    serve, count = re.subn("…", lambda _: secrets.token_hex(32), serve)
    assert count == 4
    async with terminal.serving(serve):
        await host.wait_ready(SECONDS)
        watch = edited(watch, {":8080/": f":{host.http_port}/"})
        told = await terminal.run("\n".join([*EXPORTED.findall(serve), watch]))
    assert '"status":"READY"' in told
    assert "\ndws_workers 4" in told
    assert "cluster   OK, 4 pods on 1 host" in told


def test_what_is_not_run_is_a_command() -> None:
    """What is left out above is a script that the shell can read."""
    for command in NOT_RUN:
        subprocess.run(["bash", "-n", ROOT / command], check=True)
        assert os.access(ROOT / command, os.X_OK)
