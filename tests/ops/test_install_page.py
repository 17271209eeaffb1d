"""The install page: every block of commands is run, below a folder of the test.

Paths of the system lie below that folder. Real are Python, pip, daisi-ws, supervisord and what
copies files. Programs that would change the machine, or need a cluster or an engine, are
stand-ins that look at what they are given.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.cluster import Host, Keys
from tests.documents import INSTALL, text
from tests.e2e.scene import until
from tests.ops.clone import clone_into
from tests.ops.dockerfile import environment
from tests.ops.manifests import has_kustomize
from tests.ops.supervised import CONFIGURATION, moved
from tests.processes import command_line, wait_until_gone

SYSTEM: Final = re.compile(r"(?<![\w/.-])/(opt|etc|var|run)/(?=daisi-ws|lib|log|systemd)")

SILENT: Final = "#!/bin/sh\nexit 0\n"
SYSTEMCTL: Final = """#!/bin/sh
case "$1" in
    daemon-reload) ;;
    enable|status|reload|kill)
        for unit; do :; done
        test -f "{root}/etc/systemd/system/$unit.service" ;;
    *) exit 1 ;;
esac
"""
DOCKER: Final = """#!/bin/sh
case "$1" in
    build) for folder; do :; done; test -f "$folder/Dockerfile" ;;
    push) ;;
    *) exit 1 ;;
esac
"""
KUBECTL: Final = """#!/bin/sh
if [ "$1" = apply ]; then test "$2" = --kustomize && {kustomize} "$3" > /dev/null; exit; fi
test "$1 $2" = "--namespace daisi-ws" || exit 1
case "$3" in rollout|exec|logs) ;; *) exit 1 ;; esac
"""


class Page:
    """The commands of a section, and a machine that they are run on."""

    def __init__(self, root: Path, more: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.clone = clone_into(root)
        configuration = moved(CONFIGURATION.read_text(encoding="utf-8"), root)
        (self.clone / CONFIGURATION.name).write_text(configuration)
        for folder in ("etc/systemd/system", "opt", "run", "var/lib", "var/log", "stand-ins"):
            (root / folder).mkdir(parents=True)
        kustomize = f"{shutil.which('kubectl')} kustomize" if has_kustomize() else "ls"
        for name in ("useradd", "chown", "chgrp", "journalctl"):
            self._stand_in(name, SILENT)
        self._stand_in("systemctl", SYSTEMCTL.replace("{root}", str(root)))
        self._stand_in("docker", DOCKER)
        self._stand_in("kubectl", KUBECTL.replace("{kustomize}", kustomize))
        base = environment()
        self.environment = {**base, "PATH": f"{root}/stand-ins:{base['PATH']}", **(more or {})}

    def _stand_in(self, name: str, script: str) -> None:
        path = self.root / "stand-ins" / name
        path.write_text(script)
        path.chmod(0o755)

    def blocks(self, heading: str) -> list[str]:
        """Return the blocks of a section, with their paths below the root."""
        section = text(INSTALL).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        found = re.findall(r"(?ms)^```sh\n(.*?)^```$", section)
        assert found, f"no commands under {heading!r}"
        return [SYSTEM.sub(rf"{self.root}/\1/", block) for block in found]

    async def run(self, block: str) -> str:
        """Run a block as a person would, each command on its own; return what it says."""
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-euc", block],
            cwd=self.clone,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout


def managers(root: Path) -> set[int]:
    """Return the supervisords that run below a root: they have left those who started them."""
    processes = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    ours = f"{root}/etc/daisi-ws/supervisord.conf"
    return {pid for pid in processes if ours in command_line(pid)}


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder whose name is short enough for sockets in it (108 bytes, unix(7))."""
    made = Path(tempfile.mkdtemp(prefix="in-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.mark.timeout(240)
async def test_a_host_with_supervisord(
    root: Path, tmp_path: Path, redis_url: str, nats_url: str
) -> None:
    """User to shutdown: a gateway that serves, with the keys that the page has made."""
    host = Host(tmp_path, redis_url, nats_url, keys=Keys())
    given = {name: value for name, value in host.environment.items() if "_AUTH_" not in name}
    page = Page(root, {**given, "DAISI_WS_SERVER_WORKERS": str(host.workers)})
    for block in page.blocks("On a host"):
        await page.run(block)
    start, control = page.blocks("supervisord")
    for name in ("supervisord", "supervisorctl"):  # pip was not to fetch anything
        program = root / "opt/daisi-ws/bin" / name
        program.write_text(f'#!/bin/sh\nexec {program.parent}/python -m supervisor.{name} "$@"\n')
        program.chmod(0o755)
    log = root / "var/log/daisi-ws/daisi-ws.log"
    try:
        await page.run(start)
        await host.wait_ready(60)
        (manager,) = managers(root)
        shell = control.partition("ctl status")[0]

        async def running() -> bool:
            return "RUNNING" in await page.run(f"{shell}ctl status || true")

        await until(running, 60, "it is not RUNNING")
        said = await page.run(control)
        assert "daisi-ws: signalled" in said
        assert "daisi-ws: started" in said
        assert '"rolling restart started"' in log.read_text()
        assert '"configuration reloaded"' in log.read_text()
        assert not wait_until_gone([manager], 30)
    finally:
        for left in managers(root):
            os.kill(left, signal.SIGTERM)
            wait_until_gone([left], 50)
    secrets = root / "etc/daisi-ws/secrets.env"
    assert secrets.stat().st_mode & 0o077 == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("heading", ["systemd", "Kubernetes"])
async def test_files_go_where_the_manager_looks(root: Path, heading: str) -> None:
    """Units and manifests that are named are there, and the commands take them."""
    page = Page(root)
    for block in page.blocks(heading):
        await page.run(block)


def test_every_block_of_the_page_is_run() -> None:
    """No section of commands is left out above."""
    sections = re.split(r"(?m)^## ", text(INSTALL))
    with_commands = {part.partition("\n")[0] for part in sections if "\n```sh\n" in part}
    assert with_commands == {"On a host", "supervisord", "systemd", "Kubernetes"}
