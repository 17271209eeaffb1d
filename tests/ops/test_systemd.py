"""The systemd unit, and what `daisi-ws serve` tells systemd: a socket of the test listens."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from daisi_ws.config import testing_config
from daisi_ws.domain.deadlines import deadlines
from daisi_ws.embedded import free_ports
from tests.cluster import ROOT, Host, Keys
from tests.ops.listening import DEADLINE, Listener

UNIT: Final = ROOT / "conf/systemd/daisi-ws.service"
WATCHDOG_SECONDS: Final = 0.5
VALID: Final = "log: {level: info}"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """The manager's end."""
    with Listener(abstract=True) as made:
        yield made


def host_of(folder: Path, redis_url: str, nats_url: str, listener: Listener) -> Host:
    """Return a host as systemd would start it."""
    environment = {
        "NOTIFY_SOCKET": listener.address,
        "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 1e6:.0f}",
        "DAISI_WS_CONFIG": str(folder / "config.yaml"),
    }
    (folder / "config.yaml").write_text(VALID)
    return Host(folder, redis_url, nats_url, keys=Keys(), environment=environment)


async def test_systemd_is_told_how_it_goes(
    tmp_path: Path, redis_url: str, nats_url: str, listener: Listener
) -> None:
    """READY after the workers, a reload from RELOADING to READY, a rolling restart, STOPPING."""
    host = host_of(tmp_path, redis_url, nats_url, listener)
    host.start()
    try:
        booting = listener.until(READY="1")
        assert '"all workers ready"' in host.log_text(), "READY came too early"
        assert booting[0] == {"STATUS": "0 of 2 workers ready"}
        await host.wait_ready(DEADLINE)

        (tmp_path / "config.yaml").write_text("log: {level: loud}")
        host.signal(signal.SIGHUP)
        (reloading,) = (m for m in listener.until(READY="1") if "RELOADING" in m)
        assert reloading["MONOTONIC_USEC"].isdigit()
        assert '"reload refused, nothing changed"' in host.log_text()

        (tmp_path / "config.yaml").write_text(VALID)
        host.signal(signal.SIGUSR2)
        listener.until(STATUS="rolling restart of worker 0")
        listener.until(STATUS="rolling restart of worker 1")

        host.signal(signal.SIGTERM)
        listener.until(STOPPING="1")
        listener.until(STATUS="stopping, ")
        assert await host.wait(DEADLINE) == 0
    finally:
        await host.close()
    said = [name for message in listener.messages for name in message]
    assert said.count("READY") == 1 + said.count("RELOADING"), "once for the start, and each reload"


async def test_ready_waits_for_redis(tmp_path: Path, nats_url: str, listener: Listener) -> None:
    """While nobody can be served, systemd is told what is missing, and not READY."""
    host = host_of(tmp_path, f"redis://127.0.0.1:{free_ports()}", nats_url, listener)
    host.start()
    try:
        told = ""
        while "redis" not in told:
            message = listener.take(DEADLINE)
            assert message is not None, "nothing more was said"
            assert "READY" not in message
            told = message.get("STATUS", "")
        assert told.startswith("0 of 2 workers ready: ")
    finally:
        await host.close()


async def test_watchdog_hears_nothing_of_a_supervisor_that_stands_still(
    tmp_path: Path, redis_url: str, nats_url: str, listener: Listener
) -> None:
    """WATCHDOG comes while the loop turns, and not while it does not; the workers send none."""
    host = host_of(tmp_path, redis_url, nats_url, listener)
    host.start()
    try:
        await host.wait_ready(DEADLINE)
        listener.until(WATCHDOG="1")
        os.kill(host.pid, signal.SIGSTOP)
        while listener.take(2 * WATCHDOG_SECONDS) is not None:
            pass  # said before
        os.kill(host.pid, signal.SIGCONT)
        listener.until(WATCHDOG="1")
        assert await host.stop(DEADLINE) == 0
    finally:
        await host.close()


def unit() -> configparser.ConfigParser:
    """Return the unit's sections; of a key that is given twice, the last."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_systemd_waits_as_long_as_the_ladder_says() -> None:
    """`TimeoutStopSec` is the rung above the supervisor's own SIGKILL, for the defaults."""
    config, service = testing_config(), unit()["Service"]
    ladder = deadlines(config.app.shutdown_timeout_seconds, config.server.shutdown_delay_seconds)
    assert float(service["TimeoutStopSec"]) == ladder.manager_kill
    assert (service["Type"], service["KillMode"]) == ("notify", "mixed")
    assert float(service["WatchdogSec"]) > 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing, and `security` rates the exposure below 2 of 10."""
    text = UNIT.read_text(encoding="utf-8")
    copy = tmp_path / UNIT.name
    # It must be there for systemd, installed or not.
    copy.write_text(text.replace("/opt/daisi-ws/bin/daisi-ws", "/bin/true"))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *command, copy], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-300:] + done.stderr
        assert command != ["verify"] or not done.stderr
