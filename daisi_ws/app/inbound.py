"""What other pods hand in: pushed events, barriers, displacements. Routing cannot be reached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Position
from daisi_ws.domain import subjects
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.event import NotAnEvent, event_id_of, event_text
from daisi_ws.domain.packets import Item

LEGACY_SECONDS: Final = 60.0
"""For so long after an older pod pushed something, events are remembered by their ID."""

_REMEMBERED: Final = 20_000


class Inbound:
    """:class:`daisi_ws.app.ports.Inbound` of one pod.

    An older pod reads the same stream by a consumer of its own and pushes what our reader hands
    on as well. So while older pods push, each event is delivered once by its ID.

    :param barrier: notes that a pod serves interests, forgets their routes and says from where
        they are read anew; None if this pod is not the reader.
    :param displace: stops a session's delivery and gives up its lock.
    :param unserved: takes this pod out of a route that nobody here needs.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        delivery: Delivery,
        barrier: Callable[[str, Iterable[str]], Position | None],
        displace: Callable[[str, str], Awaitable[None]],
        unserved: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._delivery = delivery
        self._barrier = barrier
        self._displace = displace
        self._unserved = unserved
        self._clock = clock
        self._legacy_until = 0.0
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def accept(
        self, source: str, epoch: int, stream: str, upto: int, items: list[Item]
    ) -> int:
        """See :meth:`ports.Inbound.accept`."""
        del source
        if not self._delivery.is_open:
            await self._delivery.wait_open()
        for item in items:
            self._check_served(item.subject)
        if self._clock() < self._legacy_until:
            items = [item for item in items if self._first(event_id_of(item.text))]
        return self._delivery.accept(epoch, stream, upto, items)

    def accepted_upto(self) -> int:
        """See :meth:`ports.Inbound.accepted_upto`."""
        return self._delivery.accepted_upto()

    def known_epoch(self) -> int:
        """See :meth:`ports.Inbound.known_epoch`."""
        return self._delivery.epoch

    async def barrier(self, source: str, interests: Sequence[str]) -> Position | None:
        """See :meth:`ports.Inbound.barrier`."""
        return self._barrier(source, interests)

    async def displace(self, session_key: str, holder: str) -> None:
        """See :meth:`ports.Inbound.displace`."""
        await self._displace(session_key, holder)

    def push_event(self, subject: str, event_id: str, payload: bytes, source: str) -> str:
        """See :meth:`ports.Inbound.push_event`."""
        del source
        address = subjects.parse(subject)
        if address is None:
            raise BadRequest("no event subject", details=f"ids outside the alphabet: {subject!r}")
        try:
            text = event_text(address, payload, None)
        except NotAnEvent as error:
            raise BadRequest("not an event", details=str(error)) from None
        self._legacy_until = self._clock() + LEGACY_SECONDS
        if not self._first(event_id):
            return "known already"
        count = self._delivery.deliver_unsequenced(subject, text)
        return f"delivered to {count}"

    def _check_served(self, subject: str) -> None:
        address = subjects.parse(subject)
        if address is not None and not self._hub.match(address):
            for interest in address.interests:
                self._unserved(interest)

    def _first(self, event_id: str) -> bool:
        if event_id in self._seen:
            return False
        self._seen[event_id] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True
