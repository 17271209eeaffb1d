"""What a chaos run must not overlook: hosts and clients that do not come back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from tests.chaos import run
from tests.chaos.meter import Meter
from tests.chaos.stage import Stage
from tests.cluster import Host


class Crashing:
    """A host that ends whenever it is started."""

    _process = None
    returncode: int | None = None

    def start(self) -> None:
        """End."""
        self.returncode = 3

    async def wait(self) -> int:
        """Return its exit code."""
        return 3

    async def wait_ready(self, timeout: float) -> None:
        """Fail.

        :raises AssertionError: always.
        """
        raise AssertionError(f"ended, not ready in {timeout:g} s")

    def report(self, what: str) -> str:
        """Return a sentence about it."""
        return f"host {what}"


def a_stage(*watchers: object) -> Stage:
    """A stage of nothing but a crowd."""
    on = SimpleNamespace(meter=Meter(), problems=[], crowd=SimpleNamespace(watchers=watchers))
    return cast("Stage", on)


async def test_a_host_that_never_stays_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts it again and again gives up with a word, not as if it were ready."""

    async def at_once(_: float) -> None:
        pass

    monkeypatch.setattr(asyncio, "sleep", at_once)
    with pytest.raises(AssertionError, match="again and again"):
        await Stage.revive(a_stage(), cast("Host", Crashing()))


async def test_clients_that_do_not_come_back_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one without positions nothing is demanded while it is away."""
    monkeypatch.setattr(run, "_SETTLE_SECONDS", 0.0)
    client, here, gone = (SimpleNamespace(ready=object(), name=n) for n in ("", "ann", "bob"))
    on = a_stage(
        SimpleNamespace(connected=True, account=here, client=client),
        SimpleNamespace(connected=False, account=gone, client=client),
    )
    await run._settle(on)
    assert len(on.problems) == 1
    assert on.problems[0].endswith("bob")
