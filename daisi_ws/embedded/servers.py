"""Both servers that a gateway needs, for one machine."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from daisi_ws.embedded.nats_server import NatsServer
from daisi_ws.embedded.ports import free_ports
from daisi_ws.embedded.redis_server import RedisServer


class Servers:
    """A Redis and a NATS server, started at the same time and stopped together.

    :param folder: data and logs go to `redis` and `nats` in it and stay after `stop()`, and Redis
        keeps its data too; None: private folders, removed by `stop()`.
    :param base: where to make private folders; None: the platform's folder for temporary files.
    :param redis_port: 0: a free one.
    :param nats_port: 0: a free one.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        base: Path | None = None,
        redis_port: int = 0,
        nats_port: int = 0,
    ) -> None:
        keep = folder is not None
        self.redis = RedisServer(
            folder / "redis" if folder else None, redis_port, base=base, appendonly=keep
        )
        # Beside a given port only that one is the caller's.
        self.nats = NatsServer(
            folder / "nats" if folder else None,
            nats_port,
            monitor_port=free_ports() if nats_port else 0,
            base=base,
        )

    @property
    def running(self) -> bool:
        """Whether both servers' processes exist."""
        return self.redis.running and self.nats.running

    def start(self) -> Self:
        """Start both; return once both answer.

        :raises EmbeddedServerError: one did not start; neither is left running.
        """
        try:
            self.redis.launch()
            self.nats.launch()
            self.redis.wait_ready()
            self.nats.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop both; does nothing for one that does not run."""
        try:
            self.nats.stop()
        finally:
            self.redis.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
