"""The container image, without a container engine: what its build makes runs as PID 1."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster import Host, Keys
from tests.e2e.scene import until
from tests.ops.dockerfile import INSTALLED, SITE, build, context, environment, stages, words_of
from tests.ops.manifests import BASE, container, document
from tests.processes import children, wait_until_gone

pytestmark = pytest.mark.timeout(180)  # whoever comes first builds


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the build stage has put `/opt/daisi-ws`."""
    sent = context(tmp_path_factory.mktemp("context"))
    return build(stages()[0], sent, tmp_path_factory.mktemp("root"))


def test_the_image_is_made_of_what_is_built() -> None:
    """Two stages on one Python; the second takes the installation, and nothing of its sources."""
    first, last = stages()
    assert words_of(first, "FROM")[0] == f"{words_of(last, 'FROM')[0]} AS build"
    assert words_of(last, "COPY") == [f"--from=build {INSTALLED} {INSTALLED}"]
    assert words_of(last, "RUN") == []
    assert words_of(last, "ENV") == [f"PATH={INSTALLED}/bin:$PATH"]


def test_the_image_is_what_the_deployment_expects() -> None:
    """The same user, not root; the program itself is PID 1; the command is the deployment's."""
    last = stages()[-1]
    deployment = document(BASE / "deployment.yaml")
    security = deployment["spec"]["template"]["spec"]["securityContext"]
    assert words_of(last, "USER") == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert security["runAsNonRoot"] is True
    assert json.loads(words_of(last, "ENTRYPOINT")[0]) == ["daisi-ws"]
    assert json.loads(words_of(last, "CMD")[0]) == container(deployment)["args"][:1]
    ports = [str(port["containerPort"]) for port in container(deployment)["ports"]]
    assert words_of(last, "EXPOSE")[0].split() == ports


def test_the_build_installs_the_command(image: Path) -> None:
    """It runs, and from the installation, with nothing that the context left out."""
    command = [str(image / "bin/daisi-ws"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert "serve" in said.stdout
    where = [str(image / "bin/python"), "-c", "import daisi_ws; print(daisi_ws.__file__)"]
    place = subprocess.check_output(where, text=True, env=environment(), cwd=image)
    assert Path(place).is_relative_to(image)
    (package,) = (image / "lib").glob("python3*/site-packages/daisi_ws")
    assert (package / "adapters/lua/claim_host.lua").exists()
    assert not (package.parent / "tests").exists()


class Contained(Host):
    """The image's program as PID 1 of a namespace, with the deployment's arguments."""

    program = ""

    def command(self) -> list[str]:
        """Return what a container engine would run."""
        arguments = container(document(BASE / "deployment.yaml"))["args"]
        assert arguments[-1] == "/etc/daisi-ws/config.yaml"
        arguments = [*arguments[:-1], str(BASE / "config.yaml")]
        unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*unshare, self.program, *arguments]

    @property
    def first(self) -> int:
        """PID 1, by its ID outside."""
        (pid,) = children(self.pid)
        return pid


def entries(pid: int) -> set[int]:
    """Return the children of a process, those too that have ended and are not reaped."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def gone(child: int, parent: int) -> bool:
    """Tell whether a process is no child of another any more, not even a dead one."""
    return child not in entries(parent)


def can_unshare() -> bool:
    """Tell whether this user may make a PID namespace."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no right to make a PID namespace")
async def test_the_program_is_a_good_pid_1(
    image: Path, tmp_path: Path, redis_url: str, nats_url: str
) -> None:
    """With the base's configuration: ready, orphans reaped, drained by TERM, exit code 0."""
    host = Contained(
        tmp_path,
        redis_url,
        nats_url,
        keys=Keys(),
        environment={
            "PYTHONPATH": SITE,
            "DAISI_WS_SERVER_SHUTDOWN_DELAY_SECONDS": "0.1",
            "DAISI_WS_SERVER_METRICS_PORT": "0",
        },
    )
    host.program = str(image / "bin/daisi-ws")
    host.start()
    try:
        await host.wait_ready(60)
        workers = children(host.first)
        assert len(workers) == host.workers
        assert '"pid":1,' in host.log_text()
        # A process whose parent ends becomes a child of PID 1.
        inside = ["nsenter", "--target", str(host.first), "--pid", "sh", "-c", "sleep 60 &"]
        await asyncio.to_thread(subprocess.run, inside, check=True)
        (orphan,) = entries(host.first) - workers
        os.kill(orphan, signal.SIGKILL)
        await until(lambda: gone(orphan, host.first), 30, "nobody reaped it")
        os.kill(host.first, signal.SIGTERM)
        assert await host.wait(60) == 0
        assert not wait_until_gone(workers, 30)
    finally:
        await host.close()
