"""The double of a socket behaves as the real one does."""

from __future__ import annotations

import pytest

from tests.app.connections import FakeSink
from tests.app.sink_conformance import Seen, SinkConformance


class TestFakeSink(SinkConformance):
    """The sink that only remembers."""

    @pytest.fixture
    def seen(self) -> Seen:
        """A fresh sink."""
        sink = FakeSink()

        async def ended() -> tuple[bytes, int]:
            return b"".join(sink.written), sink.closed[0].code

        return Seen(sink, ended)
