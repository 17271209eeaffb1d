"""Frames on their way from the reading task to whoever iterates."""

from __future__ import annotations

import asyncio
from collections import deque

from daisi_ws.client.frames import Frame


class Mailbox:
    """A bounded queue with an end; one producer, one consumer.

    :param size: with so many frames waiting it is full.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._frames: deque[Frame] = deque()
        self._ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def full(self) -> bool:
        """Tell whether the producer should wait."""
        return len(self._frames) >= self._size

    def put(self, frame: Frame) -> None:
        """Add a frame, full or not."""
        self._frames.append(frame)
        self._news.set()

    def end(self) -> None:
        """Nothing more will come; what waits can still be taken."""
        self._ended = True
        self._news.set()

    async def room(self) -> None:
        """Wait until it is not full."""
        while self.full:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> Frame | None:
        """Wait for the next frame and return it; None at the end."""
        while not self._frames:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        frame = self._frames.popleft()
        self._room.set()
        return frame
