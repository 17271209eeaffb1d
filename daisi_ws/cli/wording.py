"""Times and durations as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return so many seconds in their two largest units: `59 min 58 s`, `2 d 3 h`, `0.4 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds % 1 >= 0.05 else f"{seconds:.0f} s"
    left = round(seconds)
    parts: list[str] = []
    for size, unit in _STEPS:
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def clock(unix_seconds: float) -> str:
    """Return the local time of day of a Unix time, to the millisecond."""
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def moment(unix_seconds: float) -> str:
    """Return local date and time of a Unix time, to the second."""
    return datetime.fromtimestamp(unix_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def milliseconds(seconds: float) -> str:
    """Return a latency in milliseconds, with as many digits as mean something."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def plural(count: int, noun: str) -> str:
    """Return `1 event`, `2 events`, `1,000 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
