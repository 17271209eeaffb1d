"""Events that come twice because an older pod pushes what our reader hands on as well.

An older pod reads the same stream by a consumer of its own, so every event it pushes comes from
the reader too, sooner or later. What has no sequence can only be recognised by its ID.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from daisi_ws.domain.event import event_id_of

LEGACY_SECONDS: Final = 86_400.0
"""For so long after an older pod pushed something, events are remembered by their ID: however
seldom they come, the older pod and the reader hand on the same ones."""

NOBODY: Final = -1
"""In place of a moment: nobody has the event."""

_REMEMBERED: Final = 20_000
_LATEST_BYTES: Final = 1_000_000


class Doubles:
    """The IDs of the newest events, while older pods push.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until = 0.0
        # None: it came from the reader, whoever shall have it has it.
        self._seen: OrderedDict[str, int | None] = OrderedDict()
        self._latest: deque[bytes] = deque()
        self._size = 0

    @property
    def expected(self) -> bool:
        """Tell whether an older pod has pushed anything of late."""
        return self._until > 0 and self._clock() < self._until

    def expect(self) -> None:
        """An older pod pushes."""
        self._until = self._clock() + LEGACY_SECONDS
        for text in self._latest:
            self._remember(event_id_of(text), None)
        self._latest.clear()
        self._size = 0

    def push(self, event_id: str, moment: int) -> bool:
        """Remember an event that an older pod pushes; False if it is known already.

        :param moment: see :attr:`Hub.moment`; who subscribes later does not get it this way.
        """
        if event_id in self._seen:
            return False
        self._remember(event_id, moment)
        return True

    def take(self, text: bytes) -> int | None:
        """Remember an event frame's text that comes from the reader; return at which moment it was
        given to all who wanted it: :data:`NOBODY` has it, or None, everybody.

        The ID is looked for only while older pods push. Until then the newest texts are kept: the
        first one that an older pod pushes may have been among them.
        """
        if self._until and self.expected:
            event_id = event_id_of(text)
            had = self._seen.get(event_id, NOBODY)
            self._remember(event_id, None)
            return had
        self._latest.append(text)
        self._size += len(text)
        while self._size > _LATEST_BYTES:
            self._size -= len(self._latest.popleft())
        return NOBODY

    def _remember(self, event_id: str, moment: int | None) -> None:
        self._seen[event_id] = moment
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
