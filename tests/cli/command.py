"""`daisi-ws …` as a process of its own, as in a shell."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0

KEYS = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-for-tests",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "01" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-for-tests",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "02" * 32,
}
AWAY = {
    "DAISI_WS_REDIS_ADDRESS": "127.0.0.1:1",
    "DAISI_WS_NATS_URL": "nats://127.0.0.1:1",
}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def environment(*settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without settings of a gateway, with the given ones."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("DAISI_WS_")}
    merged = {**ours, "PYTHONPATH": str(ROOT)}
    for some in settings:
        merged |= some
    return merged


async def start(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: int = DEVNULL
) -> Process:
    """Start a command with the keys for tests and `env`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daisi_ws",
        *arguments,
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
        cwd="/",  # no conf/config.yaml there
        env=environment(KEYS, env or {}),
    )


async def daisi_ws(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> Result:
    """Run a command to its end."""
    process = await start(*arguments, env=env, stdin=DEVNULL if stdin is None else PIPE)
    return await finish(process, stdin)


async def finish(process: Process, stdin: bytes | None = None) -> Result:
    """Wait for the end of a command; it is killed if it takes too long."""
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"still running; said {out.decode()} {err.decode()}") from None
    assert process.returncode is not None
    return Result(process.returncode, out.decode(), err.decode())


async def eventually(condition: Callable[[], Awaitable[bool]], timeout: float = 10.0) -> None:
    """Return once a condition holds that nothing tells of; it is asked again and again.

    :raises TimeoutError: it does not hold within `timeout` seconds.
    """
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.01)
