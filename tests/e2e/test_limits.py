"""Limits of a whole host: its workers count together."""

from __future__ import annotations

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from daisi_ws.config import FILE_VARIABLE
from tests.e2e.scene import until
from tests.e2e.tabs import Gateway, NotUpgraded, gateway


async def test_the_places_of_a_host(tmp_path: Path) -> None:
    """All workers' clients count; who leaves, and a killed worker, give their places back.

    A reload changes how many there are for workers that run.
    """
    file = tmp_path / "config.yaml"
    file.write_text("limits: {connections_per_host: 6}")
    environment = {FILE_VARIABLE: str(file)}
    async with gateway(tmp_path, environment=environment) as host, AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(await host.user(user=f"u{n}")) for n in range(6)]
        for _ in range(4):
            assert await refused(host)
        file.write_text("limits: {connections_per_host: 7}")
        host.host.signal(signal.SIGHUP)
        await until(lambda: admitted(host), 30, "the reload does not apply")
        file.write_text("limits: {connections_per_host: 6}")
        host.host.signal(signal.SIGHUP)
        await until(lambda: refused(host), 30, "the reload does not apply")
        await tabs[0].close()
        await until(lambda: admitted(host), 30, "the place is not given back")
        for pid in host.host.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: admitted(host), 30, "the places of the dead are not given back")


async def refused(host: Gateway) -> bool:
    """Tell whether one more is refused for the limit."""
    try:
        await (await host.user(user="more")).close()
    except NotUpgraded as error:
        body = error.response.json()
        return error.response.status == 429 and body["message"] == "too many clients here"
    return False


async def admitted(host: Gateway) -> bool:
    """Tell whether one more is admitted."""
    try:
        await (await host.user(user="more")).close()
    except (NotUpgraded, ConnectionError, EOFError, TimeoutError, AssertionError):
        return False
    return True
