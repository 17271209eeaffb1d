"""The headers of a NATS message: `NATS/1.0`, maybe a status, then a line for each.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol, HMSG, and ADR-4.
"""

from __future__ import annotations

from typing import Final

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"
NO_RESPONDERS: Final = "503"
"""The status that says that nobody listens to what was asked."""

_VERSION: Final = b"NATS/1.0"


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return the headers, a status line as :data:`STATUS` and :data:`DESCRIPTION`.

    The last of several values of one name counts; a name that is none is passed over.
    """
    first, *lines = raw.split(b"\r\n")
    headers: dict[str, str] = {}
    status, _, description = first.removeprefix(_VERSION).strip().partition(b" ")
    if status.isdigit():
        headers[STATUS] = status.decode()
        if description:
            headers[DESCRIPTION] = description.decode(errors="replace")
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and name.isascii() and not any(byte in b" \t\n\r\x0b\x0c" for byte in name):
            headers[name.decode()] = value.strip().decode(errors="replace")
    return headers
