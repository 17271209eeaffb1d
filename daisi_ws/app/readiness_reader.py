"""Whether somebody reads the stream, can be asked from here, and is heard here.

A route counts once the reader knows it, so the reader must answer; an event comes on the
reader's own stream to this pod, so that must come, too: it carries a word once a second at least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from daisi_ws.app.inbound import Inbound
from daisi_ws.app.ingest import Ingest, Reading
from daisi_ws.app.ports import ReaderRecord
from daisi_ws.app.readiness import ANSWER_SECONDS, SILENCE_SECONDS, Look
from daisi_ws.app.readiness_parts import ConsumerPart, RedisPart
from daisi_ws.app.readiness_ports import Questions, Registry
from daisi_ws.domain.errors import Unavailable

HEARD_SECONDS: Final = 1.8
"""A reader that was not heard here for this long is in trouble; it says a word each second."""

_TAKEOVER_SECONDS: Final = 0.5


class ReaderPart:
    """Somebody reads the stream, or nothing is there to be read.

    :param shared: every pod reads a part: only this one's own reading is looked at, since asking
        each other all the time would cost the square of their number.
    :param redis: has the reader's record; `consumer`: how far was read.
    :param handover: seconds after which NATS gives the reading to another pod.
    :param most_unacknowledged: with so many unacknowledged nothing more is given out; that is not
        the reader's fault.
    """

    name = "reader"
    dependency = ""

    def __init__(
        self,
        *,
        pod_id: str,
        shared: bool,
        ingest: Ingest,
        inbound: Inbound,
        peers: Questions,
        registry: Registry,
        redis: RedisPart,
        consumer: ConsumerPart,
        handover: float,
        most_unacknowledged: int,
    ) -> None:
        self._pod_id = pod_id
        self._shared = shared
        self._ingest = ingest
        self._inbound = inbound
        self._peers = peers
        self._registry = registry
        self._redis = redis
        self._consumer = consumer
        self._stall = handover + _TAKEOVER_SECONDS
        self._most_unacknowledged = most_unacknowledged
        self._taking_since: float | None = None
        self._whom: tuple[str, int] | None = None
        self._answered: float | None = None
        self._nobody = self._gone = False
        self._worked = False
        self._problem = ""
        self._times = 0
        self._heard = 0.0

    # -- asking -----------------------------------------------------------------------------------

    def applies(self) -> bool:
        """See :meth:`Probe.applies`."""
        return self._other() is not None

    async def ask(self, clock: Callable[[], float]) -> None:
        """See :meth:`Probe.ask`. An empty barrier on the stream that there is anyway."""
        record = self._other()
        if record is None:
            return
        self._follow(clock())
        if self._gone and not (await self._registry.leases([record.pod_id]))[0]:
            return
        self._gone = False
        try:
            where = await self._peers.barrier(record.pod_id, (), ANSWER_SECONDS)
        except Unavailable:
            await self._doubt(record)
            raise
        if self._is_whom(record):
            self._nobody = where is None
            self._answered = clock()

    async def _doubt(self, record: ReaderRecord) -> None:
        """See whether somebody else reads by now, or nobody; else try it again soon."""
        newest = self._redis.record = await self._registry.reader()
        if newest is None or newest.pod_id != record.pod_id:
            return
        if (await self._registry.leases([record.pod_id]))[0]:
            self._peers.revive(record.pod_id)
        elif self._is_whom(record):
            self._nobody = self._gone = True

    def _other(self) -> ReaderRecord | None:
        """Return the record of another pod that reads, None if there is none to be asked."""
        record = self._redis.record
        if self._shared or record is None or record.pod_id == self._pod_id:
            return None
        return None if self._ingest.state is Reading.READER else record

    def _is_whom(self, record: ReaderRecord) -> bool:
        return self._whom == (record.pod_id, record.epoch)

    # -- looking ----------------------------------------------------------------------------------

    def look(self, now: float) -> Look:
        """See :meth:`Part.look`."""
        found = self._look(now)
        self._worked = self._worked or not found.problem
        return found

    def _look(self, now: float) -> Look:
        self._follow(now)
        if self._ingest.state is Reading.TAKING_OVER:
            late = now - (self._taking_since or now) > SILENCE_SECONDS
            return Look("this pod is taking over the reading") if late else Look()
        if self._is_stalled(now):
            return Look("events wait and none is read")
        if self._ingest.state is Reading.READER:
            return Look()
        if self._shared:
            return Look("this pod does not read")
        record = self._other()
        if record is not None and not self._nobody:
            return self._judge(record, now)
        return Look() if self._redis.asked else Look("who reads is not known yet")

    def _judge(self, record: ReaderRecord, now: float) -> Look:
        """Judge another pod, which reads."""
        if self._answered is None:
            return Look(f"{record.pod_id}, which reads, has not been asked yet")
        if now - self._answered > SILENCE_SECONDS:
            return Look(f"{record.pod_id}, which reads, does not answer")
        if now - self._heard > HEARD_SECONDS:
            return Look(f"{record.pod_id}, which reads, does not reach this pod")
        return Look(seen=min(self._answered, self._heard))

    def _follow(self, now: float) -> None:
        """Note who reads, and when it was heard. A new one has time to be."""
        if self._ingest.state is not Reading.TAKING_OVER:
            self._taking_since = None
        elif self._taking_since is None:
            self._taking_since = now
        if self._inbound.heard != self._times:
            self._times, self._heard = self._inbound.heard, now
        record = self._redis.record
        whom = None if record is None else (record.pod_id, record.epoch)
        if whom != self._whom:
            self._whom, self._nobody, self._gone = whom, False, False
            self._answered = now if self._worked else None
            self._heard = now

    def _is_stalled(self, now: float) -> bool:
        since, state = self._consumer.stalled_since, self._consumer.state
        if since is None or state is None or state.unacknowledged >= self._most_unacknowledged:
            return False
        return now - since > self._stall
