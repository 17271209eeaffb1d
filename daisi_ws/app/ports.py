"""The interfaces through which the use cases reach the world, each with its contract.

Adapters implement them and raise :class:`daisi_ws.domain.errors.Unavailable` when their server
does not answer in time or refuses; they never let their library's exceptions through, and never
retry on their own: whether to ask again is the use case's decision.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.packets import Item
from daisi_ws.domain.subjects import FILTER


class Sink(Protocol):
    """The socket of one connection, as delivery sees it. Nothing here waits."""

    def write(self, data: bytes) -> None:
        """Hand over whole frames; they are sent in order. After a close it does nothing."""

    def backlog(self) -> int:
        """Return how many bytes were handed over and not yet taken by the kernel."""

    def close(self, reason: CloseReason) -> None:
        """Send the close frame (if the client still reads) and end the connection.

        A client that does not answer within the close wait is aborted.
        """


@dataclass(frozen=True, slots=True)
class Acquired:
    """The lock is ours.

    :param fence: grows with every new owner of this lock, cluster-wide.
    """

    fence: int


@dataclass(frozen=True, slots=True)
class Held:
    """The lock is somebody else's.

    :param holder: its value, `{pod id}#{connection id}` (an older pod's: the pod ID alone).
    :param alive: whether the holder's pod has a lease now.
    :param leaving: its pod is going away and has asked its client to connect elsewhere.
    """

    holder: str
    alive: bool
    leaving: bool = False


class Locks(Protocol):
    """Session locks: at most one owner per key, by compare and set on the server.

    An answer that was lost leaves the state unknown (`Unavailable`); asking again with the same
    owner is safe: an owner is recognised as itself and gets its fence again. An `owner` or
    `holder` is a lock value, as in :class:`Held`; `ttl_seconds` is how long the lock lasts without
    renewal.
    """

    async def acquire(self, key: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """Take the lock if it is free or already `owner`'s."""

    async def take(self, key: str, holder: str, owner: str, ttl_seconds: float) -> Acquired | Held:
        """Take the lock by force if its value is still `holder` (or it became free)."""

    async def renew(self, leases: Sequence[tuple[str, str, float]]) -> list[bool]:
        """Renew many locks in one round trip.

        :param leases: `(key, owner, ttl_seconds)` each. A lock that vanished (Redis restarted
            empty) is set again; one with another value is lost.
        :return: for each, whether it is still the owner's.
        """

    async def release(self, leases: Sequence[tuple[str, str]]) -> None:
        """Delete each `(key, owner)` if it is still that owner's."""


class Farewells(Protocol):
    """Tells newcomers whose session's holder was asked to connect elsewhere: it is no conflict."""

    async def announce(self, leases: Sequence[tuple[str, str]], ttl_seconds: float) -> None:
        """Have :attr:`Held.leaving` be told of each `(key, owner)`.

        :param ttl_seconds: for so long; best until the end of the drain.
        """


class Kills(Protocol):
    """The kill switch: tells the cluster that a session is taken over. Fast, not certain."""

    async def publish(self, channel: str, new_pod_id: str, holder: str) -> None:
        """Tell everybody; `holder` is the lock value that is to go."""

    def listen(self, on_kill: Callable[[str, str, str], None]) -> None:
        """Call `on_kill(channel, new_pod_id, holder)` for every kill; `holder` may be empty.

        An older pod's message names no holder: it means any session of that identity that is
        not on `new_pod_id`.
        """


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a pod tells about itself in `pod:{id}`, JSON.

    :param host: `server.pod_id` of its supervisor.
    :param address: where peers reach its gRPC server, `host:port`.
    :param started: Unix time in seconds.
    :param incarnation: of the Redis data that all its routes are registered in.
    :param stream: identity of the stream that it delivers from, up to `position` so far.
    :param events: read from the stream by it in the last second; `deliveries` to its clients,
        with the percentiles of their latency from broker to socket write.
    :param waits: configuration keys whose new values wait for a restart of it.
    """

    pod_id: str
    host: str
    slot: int
    generation: int
    address: str
    http_port: int
    started: float
    version: str
    pid: int
    connections: int = 0
    incarnation: str = ""
    ready: bool = False
    stream: str = ""
    position: int = 0
    events: int = 0
    deliveries: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    waits: list[str] = []


class ReaderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who reads the stream, in `reader:{stream}`, JSON. It stays when the reader has gone.

    :param epoch: grows with every new reader.
    :param stream: identity of the stream it reads.
    """

    pod_id: str
    epoch: int
    stream: str
    since: float


class Pods(Protocol):
    """Registry and leases of pods, and the record of the reader."""

    async def refresh(self, record: PodRecord) -> bool:
        """Write the record with a fresh lease; False if there was no lease before."""

    async def leases(self, pod_ids: Sequence[str]) -> list[bool]:
        """Tell for each pod whether it has a lease."""

    async def records(self) -> list[PodRecord]:
        """Return the records of all pods that have a lease."""

    async def get(self, pod_id: str) -> PodRecord | None:
        """Return a pod's record, None without a lease."""

    async def remove(self, pod_id: str) -> None:
        """End a pod's lease at once: ours at the end of a drain, or a known dead one's."""

    async def incarnation(self) -> str:
        """Return the identity of the Redis data, made anew where there is none."""

    async def claim_host(self, host: str, supervisor: str) -> str | None:
        """Claim or keep a host name for a supervisor; else return who has it."""

    async def claim_reader(self, pod_id: str, stream: str, now: float, known: int = 0) -> int:
        """Make a pod the reader of a stream and return its new epoch.

        :param known: the newest epoch that the pod knows of; the new one is higher.
        """

    async def keep_reader(self, record: ReaderRecord) -> bool:
        """Confirm that a pod is still the reader, writing its record again where it is missing.

        :return: False if a newer reader is known.
        """

    async def reader(self) -> ReaderRecord | None:
        """Return the last reader that was written."""

    async def resign_reader(self, pod_id: str) -> None:
        """Delete the reader's record if it is this pod's."""


class Routes(Protocol):
    """Route sets: which pods serve an interest. All methods take interests, not keys."""

    async def add(
        self, interests: Sequence[str], removed: Sequence[str] = ()
    ) -> tuple[ReaderRecord | None, list[str]]:
        """Register this pod for `interests`, deregister it for `removed`, then read whom to tell.

        One round trip, in that order. The second value lists all pods (shared mode only).
        """

    async def remove(self, interests: Sequence[str]) -> None:
        """Deregister this pod."""

    async def renew(self, interests: Sequence[tuple[str, float]]) -> None:
        """Register this pod again for each `(interest, ttl_seconds)`, hundreds in a round trip."""

    async def owners(self, interests: Sequence[str]) -> list[frozenset[str]]:
        """Read who serves each interest, in one round trip; what is read is tracked."""

    async def forget_pod(self, interest: str, pod_id: str) -> None:
        """Remove a pod from a route, atomically, only if it has no lease."""

    def on_invalidated(self, callback: Callable[[Sequence[str] | None], None]) -> None:
        """Call back with the interests whose routes changed; None: forget everything."""

    @property
    def tracking(self) -> bool:
        """Tell whether changes are being told: while False nothing may be cached."""


@dataclass(frozen=True, slots=True)
class Position:
    """An answer to a barrier: all events after `seq` of `stream` see the interests."""

    epoch: int
    stream: str
    seq: int


class Peers(Protocol):
    """The other pods: one ordered stream to each, opened on demand."""

    def push(self, pod_id: str, item: Item) -> None:
        """Queue an event for a pod. Order is kept; what fails is retried at the head."""

    def reading(self, epoch: int, stream: str) -> None:
        """Start (or go on) as the reader with this epoch: what was queued before is forgotten."""

    def forget(self) -> None:
        """Forget every event queued: this pod is not the reader any more."""

    def progress(self, upto: int) -> None:
        """Tell how far has been read: travels with the next batches, or alone once a second."""

    def floor(self) -> int | None:
        """Return the lowest sequence that some peer has not taken; None if all have all."""

    def withheld(self) -> int | None:
        """Return the lowest sequence that some peer took, and whose acceptance it withholds for a
        client without room; None if none is."""

    def drop(self, pod_id: str) -> None:
        """Forget a pod that has no lease any more, and what waits for it."""

    def revive(self, pod_id: str) -> None:
        """Send what waits for a pod at once, whatever its breaker says: it is known to be alive."""

    def pending(self) -> list[str]:
        """Return the pods that have not taken everything."""

    def keep(self, pod_ids: Sequence[str]) -> None:
        """Keep streams open to these pods, so that progress reaches them while this pod reads."""

    def has_room(self) -> bool:
        """Tell whether every queue has room; if not, nothing more may be read."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back when something was accepted, dropped or got room again."""

    def on_stale(self, callback: Callable[[int], None]) -> None:
        """Call back with the newer epoch when a peer refuses us as a reader that was."""

    async def barrier(
        self, pod_id: str, interests: Sequence[str], timeout: float
    ) -> Position | None:
        """Tell the reader that we serve these interests; None if it is not the reader.

        Many barriers to one pod in a loop turn travel as one.
        :param timeout: seconds.
        :raises Unavailable: no answer in time.
        """

    async def displace(self, pod_id: str, session_key: str, holder: str, timeout: float) -> None:
        """Have a session on another pod stop delivering; returns when it has.

        :param holder: the lock value that is to go.
        :param timeout: seconds.
        :raises Unavailable: no answer in time.
        """

    async def has_session(self, pod_id: str, session_key: str, holder: str, timeout: float) -> bool:
        """Tell whether another pod has a session, open or about to be.

        :param timeout: seconds.
        :raises Unavailable: no answer in time.
        """


class Inbound(Protocol):
    """What the gRPC server hands in. It cannot reach routing: a forwarded event cannot loop."""

    async def accept(
        self, source: str, epoch: int, stream: str, upto: int, items: list[Item]
    ) -> int:
        """Deliver pushed events to the connections here.

        :return: the sequence up to which all is accepted, or -1 if `epoch` is stale.
        """

    def accepted_upto(self) -> int:
        """Return the sequence up to which all is accepted now."""

    def known_epoch(self) -> int:
        """Return the newest reader's number known here."""

    async def barrier(self, source: str, interests: Sequence[str]) -> Position | None:
        """Answer a barrier; None if this pod is not the reader."""

    async def displace(self, session_key: str, holder: str) -> None:
        """Stop a session's delivery and release its lock."""

    def has_session(self, session_key: str, holder: str) -> bool:
        """Tell whether a session is here, open or about to be."""

    def push_event(self, subject: str, event_id: str, payload: bytes, source: str) -> str:
        """Deliver an older pod's event to the connections here; returns what was done.

        :param payload: EnrichedEventPayload as JSON.
        :raises Refusal: ids outside the alphabet, or contradictory ones.
        """


class Received(msgspec.Struct, frozen=True, gc=False):
    """One message of the stream.

    :param reply: subject to acknowledge it on; empty for one read directly from the stream.
    :param request_id: its own or one made for it; its trace context is behind it
        (:mod:`daisi_ws.domain.tracing`).
    """

    seq: int
    stored_ns: int
    subject: str
    data: bytes
    reply: str
    request_id: str
    redelivered: bool


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a stream has: its identity, and its first and last sequence.

    An empty one has `first` after `last`.

    :ivar deleted: the sequences between them that it keeps no more, in order; None: too many.
    """

    stream: str
    first: int
    last: int
    deleted: Sequence[int] | None = ()

    def lacks(self, after: int, upto: int) -> bool:
        """Tell whether it may have had an event over `after`, up to `upto`, that is gone."""
        if after + 1 < self.first:
            return True
        if self.deleted is None:
            return after < upto
        following = bisect_right(self.deleted, after)
        return following < len(self.deleted) and self.deleted[following] <= upto


class StreamHandler(Protocol):
    """What a stream consumer calls. All calls come from the loop, none waits."""

    def on_pinned(self, stream: str) -> None:
        """This pod is the reader from now; messages follow. In shared mode: at the start."""

    def on_received(self, message: Received) -> None:
        """One message, in the order in which the server sent it; see :meth:`on_taken`."""

    def on_taken(self) -> None:
        """All messages that came at once have been given: hand them on."""

    def on_unpinned(self) -> None:
        """This pod is not the reader any more: what is unfinished is somebody else's."""


class Stream(Protocol):
    """The durable consumer of the JetStream stream, and the stream itself."""

    async def start(self, handler: StreamHandler) -> None:
        """Find or make stream and consumer and begin to stand by."""

    def ack(self, replies: Sequence[str]) -> None:
        """Acknowledge; only the last is sent where that acknowledges all before it."""

    def pause(self, paused: bool) -> None:
        """Stop asking for messages, or go on."""

    async def ack_floor(self) -> int:
        """Return the sequence up to which everything is acknowledged."""

    async def unread_after(self) -> tuple[int, bool]:
        """Return after which sequence the next reader will begin, and whether one reads now."""

    async def pinned(self) -> bool:
        """Tell whether the server gives the stream to this pod now.

        What comes on a connection that stood still was sent while it did.
        """

    async def outstanding(self) -> tuple[int, int]:
        """Return after which sequence, and up to which, messages may be unacknowledged."""

    async def read(
        self, after: int, upto: int, subject: str = FILTER, limit: int | None = None
    ) -> list[Received]:
        """Read a range of the stream itself, `after` excluded; without acknowledgement.

        :param subject: only events published to it; an interest is one.
        :param limit: end when there are so many.
        """

    async def bounds(self) -> Bounds:
        """Return which stream there is now, and what it has."""

    async def dead_letter(self, message: Received, reason: str, problem: str) -> None:
        """Keep a message that can never be delivered; returns when it is stored."""

    def stand_by(self) -> None:
        """Forget that this pod is the reader: it is pinned anew, or another pod is."""

    async def resign(self) -> None:
        """Stop reading; if this pod is the reader, hand over at once."""
