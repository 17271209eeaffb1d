"""Background tasks of a worker: named, watched, and ended with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain.errors import Unavailable
from daisi_ws.worker.boot import BootFailure

RETRY_SECONDS: Final = 0.25

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Tasks:
    """The tasks of one pod. One that fails ends the pod: a half-working one helps nobody.

    :param failed: told why, once.
    """

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Start a task; its name is unique."""
        task = asyncio.create_task(work, name=name)
        self._tasks[name] = task
        task.add_done_callback(self._done)

    async def cancel(self, *names: str) -> None:
        """End tasks by name, or all of them, and wait until they have."""
        chosen = names or tuple(self._tasks)
        await end_tasks(*(self._tasks[name] for name in chosen if name in self._tasks))

    def _done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if not isinstance(error, BootFailure):  # which says itself why, and needs no traceback
            log.error("a task failed", task=task.get_name(), exc_info=error)
        self._failed(error)


async def retrying(work: Callable[[], Awaitable[T]], what: str) -> T:
    """Do something until its server answers; say once why it does not.

    :param what: for the log line.
    """
    said = ""
    while True:
        try:
            return await work()
        except Unavailable as problem:
            if str(problem) != said:
                said = str(problem)
                log.warning("waiting", to=what, problem=said)
            await asyncio.sleep(RETRY_SECONDS)
