"""A host under the real supervisord, by the project's `supervisord.conf`."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import yaml
from supervisor.xmlrpc import SupervisorTransport

from tests.cluster import ROOT, Host, Keys
from tests.processes import command_line, wait_until_gone

CONFIGURATION: Final = ROOT / "supervisord.conf"
PROGRAM: Final = "daisi-ws"
FOLDERS: Final = (
    "/opt/daisi-ws/bin", "/etc/daisi-ws", "/run/daisi-ws", "/var/log/daisi-ws", "/var/lib/daisi-ws"
)  # fmt: skip
DEADLINE: Final = 60.0


class SupervisedHost(Host):
    """A host whose process manager is supervisord.

    All paths of `supervisord.conf` lie below a folder of the test, and the user is the test's.

    :param settings: the content of `/etc/daisi-ws/config.yaml`.
    """

    def __init__(
        self,
        folder: Path,
        redis_url: str,
        nats_url: str,
        *,
        keys: Keys,
        settings: Mapping[str, object],
        workers: int = 2,
    ) -> None:
        super().__init__(
            folder,
            redis_url,
            nats_url,
            keys=keys,
            workers=workers,
            environment={"DAISI_WS_SERVER_WORKERS": str(workers)},
        )
        # The socket's path must fit into 108 bytes: sun_path of unix(7).
        self._root = Path(tempfile.mkdtemp(prefix="sv-", dir="/tmp"))
        self._supervisord: subprocess.Popen[bytes] | None = None
        self.log_file = self._below("/var/log/daisi-ws/daisi-ws.log")
        self._settings = settings
        self._pids: set[int] = set()

    @property
    def pid(self) -> int:
        """The process ID of the daisi-ws supervisor, as supervisord knows it; 0: none."""
        return self._known()[1]

    @property
    def returncode(self) -> int | None:
        """Exit code of supervisord; None while it runs."""
        return None if self._supervisord is None else self._supervisord.poll()

    def start(self) -> None:
        """Install below the folder and start supervisord."""
        for name in FOLDERS:
            self._below(name).mkdir(parents=True)
        program = self._below("/opt/daisi-ws/bin/daisi-ws")
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m daisi_ws "$@"\n')
        program.chmod(0o755)
        self._below("/etc/daisi-ws/config.yaml").write_text(yaml.safe_dump(self._settings))
        self._configuration.write_text(moved(CONFIGURATION.read_text(), self._root))
        with (self._root / "supervisord.out").open("wb") as out:
            self._supervisord = subprocess.Popen(
                [_tool("supervisord"), "--nodaemon", "--configuration", self._configuration],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._root,
                env=self._whole_environment(),
                start_new_session=True,
            )

    def control(self, *words: str) -> str:
        """Return what `supervisorctl` says."""
        command = [_tool("supervisorctl"), "--configuration", str(self._configuration), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        return done.stdout.strip()

    async def until_state(self, state: str, other_than: int = 0) -> None:
        """Wait until supervisord says that the program is in a state, with another process."""
        deadline = time.monotonic() + DEADLINE
        while True:
            name, pid = self._known()
            if name == state and pid != (other_than or -1):
                return
            assert time.monotonic() < deadline, self.report(f"is not {state}: {name}, {pid}")
            await asyncio.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Have supervisord signal the program, as an operator does."""
        said = self.control("signal", number.name.removeprefix("SIG"), PROGRAM)
        assert said == f"{PROGRAM}: signalled", said

    def manager_log_text(self) -> str:
        """Return what supervisord has logged of itself."""
        return self._below("/var/log/daisi-ws/supervisord.log").read_text()

    def remember(self) -> set[int]:
        """Note and return every process of the host."""
        now = {self.pid, *self.worker_pids()} - {0}
        self._pids |= now
        return now

    async def close(self) -> None:
        """End supervisord, and whatever is left of the host."""
        assert self._supervisord is not None
        with suppress(OSError, xmlrpc.client.Error):
            self.remember()
        self._supervisord.terminate()
        try:
            await asyncio.to_thread(self._supervisord.wait, DEADLINE)
        except subprocess.TimeoutExpired:
            self._supervisord.kill()
            self._supervisord.wait()
        for pid in wait_until_gone(self._pids, 0.5):
            if "daisi_ws serve" in command_line(pid):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._root)

    def _known(self) -> tuple[str, int]:
        """Return the program's state and process ID, asked for without a process of its own."""
        transport = SupervisorTransport(
            serverurl=f"unix://{self._below('/run/daisi-ws/supervisord.sock')}"
        )
        with xmlrpc.client.ServerProxy("http://supervisord", transport) as server:
            info = server.supervisor.getProcessInfo(PROGRAM)
        assert isinstance(info, dict)
        return str(info["statename"]), int(str(info["pid"]))

    @property
    def _configuration(self) -> Path:
        return self._below("/etc/daisi-ws") / CONFIGURATION.name

    def _below(self, path: str) -> Path:
        return self._root / path.removeprefix("/")


def moved(text: str, root: Path) -> str:
    """Return `supervisord.conf` for a root and a user of the test."""
    for name in FOLDERS:
        assert name in text, f"{CONFIGURATION.name} has no {name} any more"
        text = text.replace(name, str(root / name[1:]))
    text = re.sub(r"(?m)^startsecs = \d+$", "startsecs = 1", text)  # to be quick
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:  # who runs tests may not raise it
        text = re.sub(r"(?m)^minfds = \d+$", f"minfds = {hard}", text)
    return text.replace("\nuser = daisi-ws\n", f"\nuser = {getpass.getuser()}\n")


@asynccontextmanager
async def supervised(
    folder: Path, redis_url: str, nats_url: str, *, settings: Mapping[str, object]
) -> AsyncIterator[tuple[SupervisedHost, Keys]]:
    """Run a host under supervisord until the block is left; it is READY when it is entered."""
    keys = Keys()
    host = SupervisedHost(folder, redis_url, nats_url, keys=keys, settings=settings)
    host.start()
    try:
        await host.wait_ready(DEADLINE)
        yield host, keys
    except BaseException:
        print(host.report("was part of it"))
        raise
    finally:
        await host.close()


def _tool(name: str) -> str:
    """Return a program of the environment that the tests run in."""
    return str(Path(sys.executable).with_name(name))
