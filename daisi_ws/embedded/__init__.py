"""Real redis-server and nats-server processes, for development, tests and single machines."""

from __future__ import annotations

from daisi_ws.embedded.errors import EmbeddedServerError
from daisi_ws.embedded.nats_server import NatsServer
from daisi_ws.embedded.ports import free_ports
from daisi_ws.embedded.redis_server import RedisServer
from daisi_ws.embedded.servers import Servers

__all__ = ["EmbeddedServerError", "NatsServer", "RedisServer", "Servers", "free_ports"]
