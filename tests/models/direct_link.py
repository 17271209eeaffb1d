"""A link to the simulated Redis that has its answers at once."""

from __future__ import annotations

from collections.abc import Sequence

from daisi_ws.adapters.redis_link import Script
from tests.models.sim_redis import Client, RedisServer


class DirectLink:
    """What adapters of scripts need of :class:`daisi_ws.adapters.redis_link.RedisLink`."""

    in_order = True

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client = Client(lambda _: None)

    def keep_loaded(self, *_: Script) -> None:
        """All are loaded when they are run."""

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[object]) -> object:
        """Run a script; an error of it is a finding."""
        reply = self._server.execute(self._client, "EVAL", script.text, len(keys), *keys, *args)
        assert not isinstance(reply, Exception), reply
        return reply

    def put(self, key: str, value: bytes, *options: object) -> None:
        """Have a value there, whoever put it."""
        self._server.execute(self._client, "SET", key, value, *options)

    def delete(self, key: str) -> None:
        """Have nothing there."""
        self._server.execute(self._client, "DEL", key)
