"""daisi-ws: a WebSocket gateway cluster for events from NATS JetStream."""

from __future__ import annotations

__version__ = "0.1.0"
