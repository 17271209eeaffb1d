"""What every :class:`daisi_ws.app.ports.Sink` must do: run on the real one and on the double."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from daisi_ws.app.ports import Sink
from daisi_ws.domain.close import CloseReason


@dataclass
class Seen:
    """A sink, and what its client has seen once the sink is closed.

    :param ended: returns the frames and the code of the close frame.
    """

    sink: Sink
    ended: Callable[[], Awaitable[tuple[bytes, int]]]


class SinkConformance:
    """Subclasses have a fixture `seen`."""

    @pytest.fixture
    def seen(self) -> Seen:
        """A fresh sink."""
        raise AssertionError("a subclass makes it")

    async def test_writes_arrive_in_order(self, seen: Seen) -> None:
        """Frames come as they were handed over, before the close frame."""
        for number in range(50):
            seen.sink.write(b"%02d" % number)
        seen.sink.close(CloseReason.GOING_AWAY)
        assert await seen.ended() == (b"".join(b"%02d" % n for n in range(50)), 1001)

    async def test_nothing_is_written_after_the_close(self, seen: Seen) -> None:
        """What comes later is dropped."""
        seen.sink.write(b"one")
        seen.sink.close(CloseReason.DISPLACED)
        seen.sink.write(b"two")
        assert await seen.ended() == (b"one", 4402)

    async def test_the_first_reason_to_close_counts(self, seen: Seen) -> None:
        """Closing again changes nothing."""
        seen.sink.close(CloseReason.TOKEN_EXPIRED)
        seen.sink.close(CloseReason.GOING_AWAY)
        assert await seen.ended() == (b"", 4403)

    async def test_an_idle_sink_has_no_backlog(self, seen: Seen) -> None:
        """Nothing was handed over, or all of it was taken."""
        assert seen.sink.backlog() == 0
        seen.sink.close(CloseReason.GOING_AWAY)
        await seen.ended()
