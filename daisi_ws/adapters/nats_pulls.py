"""What a pull consumer was asked for, and when it is asked for more.

Pull requests: https://docs.nats.io/reference/reference-protocols/nats_api_reference; `group` and
`id`: ADR-42.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from daisi_ws.domain.consumer import GROUP, ConsumerSettings

STANDBY_EXPIRY_SECONDS: Final = 2.0
READER_EXPIRY_SHARE: Final = 0.3
"""Of the priority timeout: without a new pull within it the pin is lost."""

_LATE_SECONDS: Final = 2.0
_SILENT_SECONDS: Final = 1.0
_SECOND_NS: Final = 1_000_000_000


class Pulls:
    """Counts what is outstanding and makes the next request.

    :param most: how many messages may be asked for and not yet received.
    :param clock: monotonic seconds.
    :ivar paused: nothing is asked for.
    """

    def __init__(self, settings: ConsumerSettings, most: int, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._most = most
        self._clock = clock
        self._asked = 0
        self._until = 0.0
        self._ever = False
        self.paused = False

    @property
    def low(self) -> bool:
        """Tell whether half of what may be outstanding has come."""
        return self._asked <= self._most // 2

    @property
    def late(self) -> bool:
        """Tell whether a pull has expired long ago, and no other was sent."""
        return self._ever and not self.paused and self._clock() >= self._until + _LATE_SECONDS

    def request(self, pin: str | None) -> bytes | None:
        """Return the request for all that is missing; None while that is not due.

        :param pin: of the reader; None: this pod stands by.
        """
        if self.paused or not self.low:
            return None
        expiry = STANDBY_EXPIRY_SECONDS
        wanted: dict[str, object] = {"batch": self._most - self._asked}
        if self._settings.mode == "ordered":
            wanted["group"] = GROUP
            if pin is not None:
                wanted["id"] = pin
                expiry = self._settings.priority_timeout * READER_EXPIRY_SHARE
        wanted["expires"] = int(expiry * _SECOND_NS)
        self._asked, self._until, self._ever = self._most, self._clock() + expiry, True
        return json.dumps(wanted).encode()

    def came(self) -> None:
        """Note that a message came."""
        self._asked -= 1

    def ended(self, unused: int | None) -> None:
        """Note that a pull ended with so many messages not sent; None: with all of them."""
        self._asked = max(0, self._asked - (self._most if unused is None else unused))

    def forget(self) -> None:
        """Note that nothing is on its way any more."""
        self._asked = 0

    def silent(self, *, asked: bool) -> bool:
        """Tell, once a while, that nothing was heard for longer than the last pull lasted.

        :param asked: count as asked even if nothing was: of a push consumer.
        """
        if not (self._asked or asked) or self._clock() <= self._until + _SILENT_SECONDS:
            return False
        self._asked, self._until = 0, self._clock()
        return True
