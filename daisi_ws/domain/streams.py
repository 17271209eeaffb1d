"""Which stream a sequence belongs to: a stream that is made anew counts from 1 again."""

from __future__ import annotations

from typing import NamedTuple


class Point(NamedTuple):
    """A place in a stream.

    :param stream: identity, see :func:`identity`.
    """

    stream: str
    seq: int

    def seq_in(self, stream: str) -> int:
        """Return the sequence if it is one of this stream, else 0: the other one's beginning."""
        return self.seq if self.stream == stream else 0


def identity(name: str, created: str) -> str:
    """Return a stream's identity.

    :param created: when it was made, RFC 3339 in UTC.
    """
    return f"{name}@{created}"


def is_older(stream: str, than: str) -> bool:
    """Tell which of two streams of one name was made first."""
    return stream.rstrip("Z") < than.rstrip("Z")


def further(one: Point, other: Point) -> Point:
    """Return which of two points of a stream is further; of two streams that made last counts."""
    if one.stream == other.stream:
        return one if one.seq >= other.seq else other
    return other if is_older(one.stream, other.stream) else one
