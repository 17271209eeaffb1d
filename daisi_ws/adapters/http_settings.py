"""What the configuration says about clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from daisi_ws.config import Config


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """What the configuration says about clients; times in seconds."""

    allowed_origins: tuple[str, ...]
    handshake_timeout: float
    max_header_bytes: int
    max_message_bytes: int
    max_messages_per_second: float
    message_burst: int
    compression_mode: str

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Take the settings from a checked configuration."""
        server = config.server
        return cls(
            allowed_origins=server.allowed_origins,
            handshake_timeout=server.handshake_timeout_seconds,
            max_header_bytes=server.max_header_bytes,
            max_message_bytes=server.max_message_bytes,
            max_messages_per_second=server.max_messages_per_second,
            message_burst=server.message_burst,
            compression_mode=config.app.websocket_compression_mode,
        )
