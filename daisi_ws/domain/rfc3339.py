"""Timestamps of RFC 3339, as tokens carry them: up to nanoseconds, any offset."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_TIMESTAMP: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:([0-9]{2})(?:\.[0-9]{1,9})?"
    r"(?:Z|[+-][0-9]{2}:[0-5][0-9])"
)


def parse(text: str) -> float:
    """Return Unix time in seconds.

    Digits behind the microseconds are left out; a leap second (:60) is the first of the next
    minute. RFC 3339 section 5.6.

    :raises ValueError: it is no such timestamp.
    """
    text = text.upper()
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp")
    leap = match[1] == "60"
    # The library takes far more than the RFC, but no leap second.
    return datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if leap else text).timestamp() + leap


def format_utc(unix: float) -> str:
    """Return Unix time in seconds as a UTC timestamp, with microseconds where there are any.

    :raises ValueError: the year has more than four digits.
    """
    try:
        moment = datetime.fromtimestamp(unix, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("no such time") from error
    return moment.isoformat().replace("+00:00", "Z")
