"""Gateways that lack one thing, each with the history that shows it.

A model that cannot fail shows nothing. So each mutant takes away, in the running process, what a
promise rests on, and `test_mutants.py` asserts that the world sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any
from unittest.mock import patch

from daisi_ws.adapters.redis_link import Script
from daisi_ws.adapters.routes_redis import RoutesRedis
from daisi_ws.app.delivery import Delivery
from daisi_ws.app.handing_on import HandingOn
from daisi_ws.app.membership import Membership
from daisi_ws.app.pulse import Pulse
from daisi_ws.app.route import Router
from daisi_ws.domain.packets import Item
from tests.models import histories_reading as reading
from tests.models import histories_sessions as sessions
from tests.models.histories import History
from tests.models.world import world


@dataclass(frozen=True)
class Mutant:
    """A gateway that lacks something.

    :param history: what shows it.
    :param change: makes it so, as a context.
    """

    lacks: str
    history: History
    change: Any

    def wrong(self) -> list[str]:
        """Run its history; return what goes wrong."""
        with self.change, world(0) as on:
            self.history(on)
            return on.wrong


def _lua(script: str, what: str, instead: str) -> Any:
    """Change a script; what is to be changed must be in it."""
    load = Script.load

    def changed(name: str) -> Script:
        found = load(name)
        if name != script:
            return found
        assert found.text.count(what) == 1, f"{name}.lua has no {what!r} any more"
        text = found.text.replace(what, instead)
        return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())

    return patch.object(Script, "load", changed)


# -- what is done instead -------------------------------------------------------------------------

_accept = Delivery.accept
_forget = Router.forget
_on_push = RoutesRedis._on_push
_turn = HandingOn.turn


def _accept_from_any(self: Delivery, epoch: int, stream: str, upto: int, items: list[Item]) -> int:
    return _accept(self, max(epoch, self.epoch), stream, upto, items)


async def _ask_nothing(_: Pulse) -> None:
    pass


class _AlwaysSure:
    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def may_write(self) -> bool:
        return True


def _turn_unsure(self: HandingOn) -> None:
    if isinstance(self._delivery, Delivery):
        self._delivery = _AlwaysSure(self._delivery)  # type: ignore[assignment]
    _turn(self)


def _only_registered(self: Router, sets: Iterable[frozenset[str] | None]) -> tuple[str, ...]:
    pods = frozenset[str]().union(*(found for found in sets if found is not None))
    return tuple(pods - {self._pod_id})


def _hear_only_of_loss(self: RoutesRedis, message: list[Any]) -> None:
    if message[1] is None:
        _on_push(self, message)


def _forget_only_known(self: Router, interests: Sequence[str] | None) -> None:
    reading, self._reading = self._reading, {}
    _forget(self, interests)
    self._reading = reading


MUTANTS = [
    # Numbers: who is newer.
    Mutant(
        "the reader's number where events are accepted",
        reading.what_a_reader_that_was_has_pushed_comes_late,
        patch.object(Delivery, "accept", _accept_from_any),
    ),
    Mutant(
        "reader's numbers that grow whatever the clock does",
        reading.the_reader_dies_after_redis_clock_was_set_back,
        _lua("claim_reader", "if epoch <= last then", "if false then"),
    ),
    Mutant(
        "sessions' numbers that grow whatever the clock does",
        sessions.redis_clock_is_set_back_between_two_sessions,
        _lua("lock_acquire", "math.max(now, (tonumber(number) or 0) + 1)", "now"),
    ),
    Mutant(
        "the fence where a lock is renewed that is not there",
        sessions.a_newer_session_comes_and_goes_unheard,
        _lua("lock_renew", "if not newest or newest == owner then", "if true then"),
    ),
    # A process that stood still.
    Mutant(
        "asking whose the sessions are",
        sessions.events_come_to_a_pod_that_cannot_ask_whose_its_sessions_are,
        patch.object(Pulse, "_make_sure", _ask_nothing),
    ),
    Mutant(
        "the comparison before sockets are written",
        sessions.events_wait_for_a_pod_that_does_not_know_of_a_takeover,
        patch.object(Delivery, "may_write", lambda self: self._released.is_set()),
    ),
    Mutant(
        # It is not what keeps sockets silent, that is the comparison: it shuts the door.
        "the hold while a pod is not sure",
        reading.more_comes_to_a_pod_that_is_not_sure_than_an_outbox_takes,
        patch.object(Delivery, "hold", lambda _: None),
    ),
    Mutant(
        "the comparison before events are handed on and acknowledged",
        reading.a_reader_that_was_acknowledges_by_old_routes,
        patch.object(HandingOn, "turn", _turn_unsure),
    ),
    # Pods that have not registered in the present data.
    Mutant(
        "unsettled pods",
        reading.redis_is_emptied_and_a_pod_hears_of_it_late,
        patch.object(Router, "_union", _only_registered),
    ),
    Mutant(
        "doubt whether the data is another",
        reading.redis_is_emptied_and_a_pod_hears_of_it_late,
        patch.object(Membership, "_on_invalidated", lambda *_: None),
    ),
    Mutant(
        "pods that are known from their questions",
        reading.redis_goes_away_before_a_new_pod_is_seen,
        patch.object(Router, "meet", lambda *_: False),
    ),
    # Acknowledgement.
    Mutant(
        "waiting for all owners before the acknowledgement",
        reading.the_reader_dies_with_events_on_their_way,
        patch.object(HandingOn, "_floor", lambda self: self.position),
    ),
    # Routes in memory.
    Mutant(
        "invalidation of routes",
        reading.redis_is_emptied_and_a_pod_hears_of_it_late,
        patch.object(RoutesRedis, "_on_push", _hear_only_of_loss),
    ),
    Mutant(
        "the barrier's word that routes have changed",
        reading.a_route_is_added_and_redis_tells_it_late,
        patch.object(HandingOn, "forget", lambda *_: None),
    ),
    Mutant(
        "invalidation of routes that are just read",
        reading.a_route_is_added_while_it_is_read,
        patch.object(Router, "forget", _forget_only_known),
    ),
]
