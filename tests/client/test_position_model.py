"""Whatever is dropped, cut and given again: every event is let through once."""

from __future__ import annotations

from collections import Counter, deque

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daisi_ws.client import Done, Event, Gap, Position, Ready, Resumed, decode, position

STREAM = "s@1"
LIST = ("chat", "other")
Frame = Ready | Event | Gap | Resumed | Done
Round = tuple[list[str], int, int, list[str], int, str]


def event(seq: int, kind: str) -> Event:
    payload = msgspec.json.encode({"event_id": f"e{seq}", "event_type": kind})
    return Event(payload=msgspec.Raw(payload), seq=seq)


def gap(first: int, last: int, count: int) -> Gap:
    body = {"from_seq": first, "to_seq": last, "dropped": count}
    frame = decode(msgspec.json.encode({"type": "gap", "payload": body}))
    assert isinstance(frame, Gap)
    return frame


def done(seq: int) -> Done:
    frame = decode(msgspec.json.encode({"type": "done", "id": 1, "payload": {"seq": seq}}))
    assert isinstance(frame, Done)
    return frame


class World:
    """A stream, a gateway that keeps the protocol, and a client that looks at one thread."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.position = Position()
        self.socket: deque[Frame] = deque()
        self.connected = self.joined = False
        self.taken: Counter[int] = Counter()
        self.thread_from: int | None = None
        self.is_busy = False

    @property
    def last(self) -> int:
        return len(self.kinds)

    def wanted(self, kind: str) -> bool:
        return kind == "chat" or (kind == "message" and self.joined)

    def after(self, seq: int, *kinds: str) -> list[Event]:
        return [event(n, k) for n, k in enumerate(self.kinds, 1) if n > seq and k in kinds]

    def publish(self, *kinds: str) -> None:
        for kind in kinds:
            self.kinds.append(kind)
            if self.connected and self.wanted(kind):
                self.socket.append(event(self.last, kind))

    def refuses(self) -> bool:
        """Tell whether the gateway is busy, once."""
        was, self.is_busy = self.is_busy, False
        return was

    def busy(self) -> None:
        """The gateway refuses the next replay, for now."""
        self.is_busy = True

    def cut_busy(self) -> None:
        self.cut()
        self.busy()

    def nothing(self) -> None:
        """The connection goes on."""

    def connect(self) -> None:
        if self.connected:
            return
        self.connected = True
        if not self.position.stream:
            self.socket.append(Ready(stream=STREAM, seq=self.last))
            return
        if self.refuses():
            refusal = Ready(stream=STREAM, seq=self.last, recovered=False, reason="busy")
            self.socket.append(refusal)
        else:
            seq = self.position.seq
            missed = self.after(seq, "chat")
            ready = Ready(stream=STREAM, seq=seq, recovered=True, replayed=len(missed))
            self.socket.extend([ready, *missed])
        if self.position.thread is not None or self.thread_from is not None:
            self.select()

    def select(self) -> None:
        """The client asks for the thread; the gateway answers behind what it has written."""
        if not self.connected or self.joined:
            return
        self.read_all()
        self.joined = True
        known = self.position.thread
        if known is None:
            self.socket.append(done(self.last))
            return
        if self.refuses():
            refusal = Resumed(stream=STREAM, seq=self.last, reason="busy", chat_id="c", id=1)
            self.socket.extend([refusal, done(self.last)])
            return
        missed = self.after(known, "message")
        answer = Resumed(
            stream=STREAM, seq=known, recovered=True, replayed=len(missed), chat_id="c", id=1
        )
        self.socket.extend([answer, *missed, done(known)])

    def choose_again(self) -> None:
        """Events of the thread's replay were dropped, and the client noticed."""
        if self.connected and self.position.thread_behind:
            self.joined = False
            self.select()

    def resume(self) -> None:
        if not self.connected or not self.position.behind:
            return
        # What waits is written before the answer.
        seq = self.position.seq
        self.read_all()
        if self.position.seq == seq and self.refuses():
            self.socket.append(Resumed(stream=STREAM, seq=self.last, reason="busy"))
        elif self.position.seq == seq:
            missed = self.after(seq, *(["chat", "message"] if self.joined else ["chat"]))
            count = len(missed)
            answer = Resumed(stream=STREAM, seq=seq, recovered=True, replayed=count)
            self.socket.extend([answer, *missed])

    def drop(self, count: int) -> None:
        """The gateway drops the oldest events that wait, up to the first other frame."""
        dropped: list[int] = []
        while len(dropped) < count and self.socket:
            frame = self.socket[0]
            if not isinstance(frame, Event):
                break
            dropped.append(frame.seq or 0)
            self.socket.popleft()
        if dropped:
            self.socket.appendleft(gap(min(dropped), max(dropped), len(dropped)))

    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.socket))):
            match self.socket.popleft():
                case Ready() as ready:
                    self.position.start(ready)
                case Gap() as told:
                    self.position.gap(told)
                case Resumed(chat_id=None) as answer:
                    self.position.resumed(answer)
                case Resumed() as answer:
                    self.position.thread_resumed(answer)
                case Done() as word:
                    self.position.thread_joined(word.payload.seq)
                    if self.thread_from is None:
                        self.thread_from = word.payload.seq
                case Event() as frame:
                    self.taken[frame.seq or 0] += self.position.take(frame)

    def read_all(self) -> None:
        self.read(len(self.socket))

    def cut(self) -> None:
        if self.connected and self.position.stream:
            self.connected = self.joined = False
            self.socket.clear()
            self.position.lost()

    def repeat(self, back: int) -> None:
        """Something that came already comes again, though not amid what is given again."""
        if self.taken and self.connected and not self.socket:
            seq = sorted(self.taken)[-1 - back % len(self.taken)]
            if self.taken[seq]:
                assert not self.position.take(event(seq, self.kinds[seq - 1]))

    def finish(self) -> None:
        self.is_busy = False
        self.connect()
        self.read_all()
        for _ in range(3):
            self.resume()
            self.read_all()
            self.choose_again()
            self.read_all()
        assert not self.position.behind


kinds = st.lists(st.sampled_from(["chat", "message", "message", "other"]), min_size=1, max_size=6)
rounds = st.tuples(
    kinds,
    st.integers(0, 4),
    st.integers(0, 4),
    kinds,
    st.integers(0, 8),
    st.sampled_from(["resume", "choose_again", "cut", "cut_busy", "busy", "read_all", "nothing"]),
)
"""Events come; some are read, some dropped; more come; some are read; then something happens."""


@pytest.mark.parametrize("window", [2, 4096])
@given(select_at=st.integers(0, 3), script=st.lists(rounds, max_size=10))
@settings(max_examples=60, deadline=None)
def test_every_event_is_let_through_once(window: int, select_at: int, script: list[Round]) -> None:
    """However small the window, nothing is missing at the end, and nothing came twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position, "WINDOW", window)
        world = World()
        world.connect()
        world.read_all()
        for number, (before, read, dropped, after, read_on, what) in enumerate(script):
            world.connect()
            if number == select_at:
                world.select()
            world.publish(*before)
            world.read(read)
            world.drop(dropped)
            world.publish(*after)
            world.read(read_on)
            getattr(world, what)()
            world.repeat(read_on)
        world.finish()
    since = world.thread_from
    expected = {e.seq for e in world.after(0, "chat")}
    expected |= {e.seq for e in world.after(since, "message")} if since is not None else set()
    got = {seq for seq, count in world.taken.items() if count}
    assert expected <= got
    assert max(world.taken.values(), default=0) <= 1
    assert max(got, default=0) <= world.position.seq <= world.last
