"""The reference client: what a browser's code should do, in Python.

Used by `daisi-ws tail` and `daisi-ws dev`, by the end-to-end tests and by load generators.
"""

from __future__ import annotations

from daisi_ws.client.backoff import Backoff
from daisi_ws.client.credentials import TokenSource
from daisi_ws.client.ending import Ended, Refused, Rejected, Unreachable
from daisi_ws.client.frames import (
    Done,
    Error,
    Event,
    Frame,
    Gap,
    Lost,
    Other,
    Ready,
    Reconnect,
    Resumed,
    TokenExpiring,
    decode,
)
from daisi_ws.client.handshake import POD_HEADER, admin_url, client_session, user_url
from daisi_ws.client.outages import Outages
from daisi_ws.client.position import Position
from daisi_ws.client.reference import ReferenceClient

__all__ = [
    "POD_HEADER",
    "Backoff",
    "Done",
    "Ended",
    "Error",
    "Event",
    "Frame",
    "Gap",
    "Lost",
    "Other",
    "Outages",
    "Position",
    "Ready",
    "Reconnect",
    "ReferenceClient",
    "Refused",
    "Rejected",
    "Resumed",
    "TokenExpiring",
    "TokenSource",
    "Unreachable",
    "admin_url",
    "client_session",
    "decode",
    "user_url",
]
