"""One supervisor per `server.pod_id`: two hosts of one name would take each other's place."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import structlog

from daisi_ws.adapters.pods_redis import PodsRedis
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.slots import WorkerContext
from daisi_ws.worker.boot import BootFailure
from daisi_ws.worker.tasks import retrying

log = structlog.get_logger(__name__)


class HostClaim:
    """The claim of a host name in Redis, shared by the workers of one supervisor.

    :param lease: getter of the seconds for which a claim lasts without being renewed.
    """

    def __init__(
        self, pods: PodsRedis, host: str, lease: Callable[[], float], context: WorkerContext
    ) -> None:
        self._pods = pods
        self._host = host
        self._lease = lease
        self._pid = context.supervisor_pid
        self._claim = f"{context.supervisor_id}@{socket.gethostname()}#{context.supervisor_pid}"

    async def take(self) -> None:
        """Claim the name, outwaiting a holder that may be dead.

        :raises BootFailure: another supervisor that lives has it.
        """
        loop = asyncio.get_running_loop()
        patience = loop.time() + self._lease() * 1.5
        while holder := await retrying(self._try, "claim the pod ID"):
            if self._is_dead(holder):
                await retrying(lambda: self._pods.release_host(self._host, holder), "claim")
            elif self._is_here(holder) or loop.time() > patience:
                raise BootFailure(
                    f"the pod ID {self._host} is in use by another supervisor ({holder})",
                    "give this host a server.pod_id of its own, or stop the other one",
                )
            else:
                await asyncio.sleep(self._lease() / 10)

    async def keep(self) -> None:
        """Renew until cancelled."""
        while True:
            await asyncio.sleep(self._lease() / 4)
            try:
                holder = await self._try()
            except Unavailable:
                continue
            if holder:
                log.error("another supervisor has this pod ID now", holder=holder)

    async def _try(self) -> str | None:
        return await self._pods.claim_host(self._host, self._claim)

    def _is_here(self, holder: str) -> bool:
        return holder.partition("@")[2].rpartition("#")[0] == socket.gethostname()

    def _is_dead(self, holder: str) -> bool:
        """Tell whether the holder's process is known to be gone: it was on this machine."""
        if not self._is_here(holder):
            return False
        pid = int(holder.rpartition("#")[2])
        if pid == self._pid:
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False
