"""What other pods hand in: pushed events, barriers, displacements. Routing cannot be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from daisi_ws.app.delivery import Delivery
from daisi_ws.app.hub import Hub
from daisi_ws.app.ports import Position
from daisi_ws.domain import subjects
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.event import NotAnEvent, event_text
from daisi_ws.domain.packets import Item


class Inbound:
    """:class:`daisi_ws.app.ports.Inbound` of one pod.

    :param barrier: notes that a pod serves interests, forgets their routes and says from where
        they are read anew; None if this pod is not the reader.
    :param displace: stops a session's delivery and gives up its lock.
    :param has_session: tells whether a session is here.
    :param lapsed: tells whether others may have given this pod up; `judge` returns when that is
        known, and if so nothing is accepted any more.
    :param unserved: takes this pod out of a route that nobody here needs.
    :ivar heard: grows with each word of the reader.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        delivery: Delivery,
        barrier: Callable[[str, Iterable[str]], Awaitable[Position | None]],
        displace: Callable[[str, str], Awaitable[None]],
        has_session: Callable[[str, str], bool],
        unserved: Callable[[str], None],
        lapsed: Callable[[], bool],
        judge: Callable[[], Awaitable[None]],
    ) -> None:
        self._hub = hub
        self._delivery = delivery
        self._barrier = barrier
        self._displace = displace
        self._has_session = has_session
        self._unserved = unserved
        self._lapsed = lapsed
        self._judge = judge
        self.heard = 0

    async def accept(
        self, source: str, epoch: int, stream: str, upto: int, items: list[Item]
    ) -> int:
        """See :meth:`ports.Inbound.accept`."""
        del source
        if epoch >= self._delivery.epoch:
            self.heard += 1
        if self._lapsed():
            await self._judge()
        if not self._delivery.is_open:
            await self._delivery.wait_open()
        for item in items:
            self._check_served(item.subject)
        return self._delivery.accept_and_flush(epoch, stream, upto, items)

    def accepted_upto(self) -> int:
        """See :meth:`ports.Inbound.accepted_upto`."""
        return self._delivery.accepted_upto()

    def known_epoch(self) -> int:
        """See :meth:`ports.Inbound.known_epoch`."""
        return self._delivery.epoch

    async def barrier(self, source: str, interests: Sequence[str]) -> Position | None:
        """See :meth:`ports.Inbound.barrier`."""
        return await self._barrier(source, interests)

    async def displace(self, session_key: str, holder: str) -> None:
        """See :meth:`ports.Inbound.displace`."""
        await self._displace(session_key, holder)

    def has_session(self, session_key: str, holder: str) -> bool:
        """See :meth:`ports.Inbound.has_session`."""
        return self._has_session(session_key, holder)

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
        count = self._delivery.deliver_unsequenced(event_id, subject, text)
        return "known already" if count is None else f"delivered to {count}"

    def _check_served(self, subject: str) -> None:
        address = subjects.parse(subject)
        if address is not None and not self._hub.match(address):
            for interest in address.interests:
                self._unserved(interest)
