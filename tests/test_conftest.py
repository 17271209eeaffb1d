"""The fixtures keep what they promise to every other test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import redis.asyncio
import uvloop
from nats.aio.client import Client as NatsClient

LEAKY = """
import asyncio, pytest, subprocess

async def test_task():
    global task
    task = asyncio.create_task(asyncio.sleep(60))

def test_child():
    global child
    child = subprocess.Popen(["sleep", "60"])

async def test_short_task():
    asyncio.create_task(asyncio.sleep(0.01))

@pytest.mark.timeout(0.2)
async def test_hanging():
    while True:
        await asyncio.sleep(0.01)

def test_stop_child():
    child.kill()
    child.wait()
"""


async def test_tests_run_on_uvloop() -> None:
    """The loop of the tests is the loop of the workers."""
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


@pytest.mark.parametrize("_run", [1, 2])
async def test_redis_is_empty_for_every_test(redis: redis.asyncio.Redis, _run: int) -> None:
    """What one test writes, the next does not see."""
    assert await redis.dbsize() == 0
    await redis.set("key", "value")


@pytest.mark.parametrize("_run", [1, 2])
async def test_nats_has_no_streams_for_every_test(nats: NatsClient, _run: int) -> None:
    """What one test publishes, the next does not get."""
    jetstream = nats.jetstream()
    assert await jetstream.streams_info() == []
    await jetstream.add_stream(name="events", subjects=["events.>"])


def test_what_a_test_leaves_running_fails_it(tmp_path: Path) -> None:
    """A task and a child process that outlive their test are errors; a task about to end is not.
    A test that hangs is cancelled in time."""
    root = Path(__file__).parents[1]
    file = tmp_path / "test_leaky.py"
    file.write_text(LEAKY)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            root / "pyproject.toml",
            "-p",
            "tests.conftest",
            file,
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 4 passed, 2 errors" in run.stdout, run.stdout + run.stderr
    assert "AssertionError: tasks left running" in run.stdout
    assert "AssertionError: child processes left running" in run.stdout
