"""Which pods serve an event: a cache of route sets, kept exact by the store's invalidations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from daisi_ws.app.ports import Routes
from daisi_ws.domain.errors import Unavailable
from daisi_ws.domain.ids import is_own_pod
from daisi_ws.domain.subjects import Address
from daisi_ws.metrics import Tally

MAX_ENTRIES: Final = 200_000

log = structlog.get_logger(__name__)


class Router:
    """Answers "which other pods own this event", without waiting where that is known.

    Pods that have not yet registered everything they serve in the present Redis data (it came
    back empty, say) are *unsettled*: they are given every event and choose themselves. While
    Redis is away that is every pod.

    :param pod_id: this pod, never among the owners: the reader delivers to its own anyway.
    """

    def __init__(self, routes: Routes, pod_id: str, tally: Tally) -> None:
        self._routes = routes
        self._pod_id = pod_id
        self._tally = tally
        self._sets: dict[str, frozenset[str]] = {}
        self._owners: dict[str, tuple[str, ...]] = {}
        self._reading: dict[str, bool] = {}
        self._unsettled: frozenset[str] = frozenset()
        self._everyone: frozenset[str] = frozenset()
        self._met: frozenset[str] = frozenset()
        routes.on_invalidated(self.forget)

    def settle(self, everyone: Iterable[str], unsettled: Iterable[str]) -> None:
        """Set the pods known to live, and those among them to be given every event."""
        everyone = frozenset(everyone) - {self._pod_id}
        self._met -= everyone
        everyone |= self._met
        unsettled = (frozenset(unsettled) | self._met) - {self._pod_id}
        if (everyone, unsettled) != (self._everyone, self._unsettled):
            self._everyone, self._unsettled = everyone, unsettled
            self._owners.clear()

    def meet(self, pods: Iterable[str]) -> bool:
        """Note pods that serve something, known to live or not; tell whether one was new.

        Until it is known, or forgotten, a new one counts as living and unsettled: should Redis
        go away just now, it must not be missed. Older pods are not ours to keep account of.
        """
        new = frozenset(filter(is_own_pod, pods)) - self._everyone - {self._pod_id}
        if new:
            self._met |= new
            self._everyone |= new
            self._unsettled |= new
            self._owners.clear()
        return bool(new)

    def forget(self, interests: Sequence[str] | None) -> None:
        """Forget the routes of these interests, also reads of them under way; None: all."""
        if interests is None:
            self._sets.clear()
            self._owners.clear()
            self._reading = dict.fromkeys(self._reading, False)
            return
        for interest in interests:
            if interest in self._reading:
                self._reading[interest] = False
            if self._sets.pop(interest, None) is not None:
                self._forget_owners(interest)

    def forget_pod(self, pod_id: str) -> list[str]:
        """Forget a pod without lease; return the interests whose routes named it."""
        gone = {pod_id}
        self._met -= gone
        self._everyone -= gone
        self._unsettled -= gone
        named = [interest for interest, pods in self._sets.items() if pod_id in pods]
        self.forget(named)
        self._owners.clear()
        return named

    def owners(self, address: Address) -> tuple[str, ...] | None:
        """Return the other pods that serve an event; None if that must be read first."""
        owners = self._owners.get(address.subject)
        if owners is not None:
            self._tally.route_hits += 1
            return owners
        if not self._routes.tracking:
            return tuple(self._everyone)
        sets = [self._sets.get(interest) for interest in address.interests]
        known = [found for found in sets if found is not None]
        if len(known) < len(sets):
            return None
        return self._remember(address, known)

    async def read(self, addresses: Iterable[Address]) -> dict[str, tuple[str, ...]]:
        """Read the routes of events in one round trip; return the owners of each subject.

        A route that changed while it was read is neither kept nor returned: its events must be
        read again, or a pod that was told "from here on" would miss them. While Redis is away
        the owners are every pod.
        """
        wanted = {a.subject: a for a in addresses}
        missing = list({i for a in wanted.values() for i in a.interests if i not in self._sets})
        self._tally.route_misses += len(missing)
        self._reading.update(dict.fromkeys(missing, True))
        try:
            found = dict(zip(missing, await self._routes.owners(missing), strict=True))
        except Unavailable:
            return dict.fromkeys(wanted, tuple(self._everyone))
        finally:
            valid = {interest for interest in missing if self._reading.pop(interest, False)}
        valid_sets = {i: pods for i, pods in found.items() if i in valid}
        self.meet(frozenset().union(*found.values()))
        self._make_room()
        self._sets.update(valid_sets)
        return {
            subject: self._union(sets)
            for subject, address in wanted.items()
            if None
            not in (sets := [valid_sets.get(i, self._sets.get(i)) for i in address.interests])
        }

    def _union(self, sets: Iterable[frozenset[str] | None]) -> tuple[str, ...]:
        pods = self._unsettled.union(*(found for found in sets if found is not None))
        return tuple(pods - {self._pod_id})

    def _remember(self, address: Address, sets: Iterable[frozenset[str]]) -> tuple[str, ...]:
        owners = self._owners[address.subject] = self._union(sets)
        return owners

    def _forget_owners(self, interest: str) -> None:
        if not interest.endswith(".agents"):
            self._owners.pop(interest, None)
            return
        for subject in [s for s in self._owners if s.endswith(".agents")]:
            del self._owners[subject]

    def _make_room(self) -> None:
        if len(self._sets) > MAX_ENTRIES or len(self._owners) > MAX_ENTRIES:
            self._sets.clear()
            self._owners.clear()
