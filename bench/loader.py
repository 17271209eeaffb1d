"""The load process, seen from who measures."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from bench.orders import Answer, Order, Quit, Trouble
from bench.targets import ROOT

_LINE_LIMIT: Final = 64 * 1024 * 1024
_answer = msgspec.json.Decoder(Answer)
_T = TypeVar("_T", bound=Answer)


class Loader:
    """Starts :mod:`bench.load` and hands it orders, one after the other."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def ask(self, order: Order, kind: type[_T]) -> _T:
        """Give an order and return its answer.

        :raises RuntimeError: the order failed, or the load has died.
        """
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(order) + b"\n")
        await stdin.drain()
        line = await stdout.readline()
        if not line:
            raise RuntimeError("the load process has died")
        answer = _answer.decode(line)
        if isinstance(answer, Trouble):
            raise RuntimeError(answer.problem)  # noqa: TRY004 - not about a type
        assert isinstance(answer, kind)
        return answer

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench.load", stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=_LINE_LIMIT
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if error is None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(Quit()) + b"\n")
        elif self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
