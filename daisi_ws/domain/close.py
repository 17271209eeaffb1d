"""Every reason to end a connection: close code, text, and whether the client should come back.

The same value is the metric label and the log field. Codes: RFC 6455 section 7.4 and the 4xxx
table of the wire protocol.
"""

from __future__ import annotations

from enum import Enum


class CloseReason(Enum):
    """One named value per reason. `label` is its metric label."""

    CLIENT_LEFT = (1000, "client left", True)
    GOING_AWAY = (1001, "server going away, reconnect", True)
    MOVED = (1001, "server going away, moved to a newer connection", True)
    PROTOCOL_ERROR = (1002, "protocol error", False)
    INVALID_DATA = (1007, "message is not valid UTF-8, or cannot be unpacked", False)
    MESSAGE_TOO_BIG = (1009, "message too big", False)
    INTERNAL_ERROR = (1011, "internal error", True)
    PONG_TIMEOUT = (1011, "no sign of life", True)
    TOO_SLOW = (1013, "client too slow", True)
    BAD_REQUEST = (4400, "bad request", False)
    INVALID_API_KEY = (4401, "invalid API key", False)
    DISPLACED = (4402, "session taken over by a newer connection", False)
    SESSION_LOST = (4402, "session lock lost to another connection", False)
    INVALID_TOKEN = (4403, "invalid token", False)
    TOKEN_EXPIRED = (4403, "token expired", False)
    RATE_LIMITED = (4429, "rate limit exceeded", True)
    ABNORMAL = (1006, "connection lost", True)

    def __init__(self, code: int, text: str, reconnect: bool) -> None:
        self.code = code
        self.text = text
        self.reconnect = reconnect

    @property
    def label(self) -> str:
        """Return the metric label and log value of this reason."""
        return self.name.lower()
