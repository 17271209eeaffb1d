"""Timestamps of RFC 3339, as tokens carry them: up to nanoseconds, any offset."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Final

_EPOCH: Final = date(1970, 1, 1).toordinal()
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def parse(text: str) -> float:
    """Return Unix time in seconds.

    A leap second (:60) is the first moment of the next minute. RFC 3339 section 5.6.

    :raises ValueError: it is no such timestamp.
    """
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 timestamp")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, offset_hour, offset_minute = match.groups()[6:]
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no such time of day")
    offset = 0
    if sign is not None:
        if int(offset_hour) > 23 or int(offset_minute) > 59:
            raise ValueError("no such offset")
        offset = (int(offset_hour) * 60 + int(offset_minute)) * (-60 if sign == "-" else 60)
    days = date(year, month, day).toordinal() - _EPOCH
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset
    return seconds + (int(fraction.ljust(9, "0")) / 1e9 if fraction else 0.0)


def format_utc(unix: float) -> str:
    """Return Unix time in seconds as a UTC timestamp, with microseconds where there are any.

    :raises ValueError: the year has more than four digits.
    """
    try:
        moment = datetime.fromtimestamp(unix, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("no such time") from error
    return moment.isoformat().replace("+00:00", "Z")
