"""What a request or an event is followed by: a request ID, and a W3C trace context if it has one.

Both travel as one text, `request ID` or `request ID, blank, traceparent`, wherever a request ID
does: what has no trace context costs nothing more.
"""

from __future__ import annotations

import re
from typing import Final

TRACEPARENT: Final = "traceparent"
"""Name of the header (https://www.w3.org/TR/trace-context/#traceparent-header)."""

_LENGTH: Final = 55
# Version ff, and IDs of zeros only, are invalid (section 3.2.2).
_FORM: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def traceparent_of(text: str) -> str:
    """Return a valid `traceparent` as it came, empty if it is none.

    A later version may have more fields; those of this one are kept.
    """
    if len(text) > _LENGTH and not (text[_LENGTH] == "-" and text[:2] != "00"):
        return ""
    known = text[:_LENGTH]
    return known if _FORM.fullmatch(known) else ""


def with_traceparent(request_id: str, text: str) -> str:
    """Return both as one text; the request ID alone if `text` is no valid `traceparent`."""
    parent = traceparent_of(text)
    return f"{request_id} {parent}" if parent else request_id


def parted(correlation: str) -> tuple[str, str]:
    """Return request ID and `traceparent`, which is empty if there is none."""
    request_id, blank, parent = correlation.rpartition(" ")
    if blank and len(parent) == _LENGTH and _FORM.fullmatch(parent):
        return request_id, parent
    return correlation, ""
