"""The accounts: what a client had to get, what it was allowed to get, and what it got.

Sequences are counted over all streams of one name: those of the second one begin at `GENERATION`.
Nothing here waits, reads a clock, or knows the gateway.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

GENERATION: Final = 10**9
"""Added to the sequences of each stream that follows one of the same name."""

ENDLESS: Final = 1 << 62

PASSING: Final = frozenset({"dropped", "busy", "unavailable"})
"""Reasons of gaps that a client asks about again: what it then gets comes late, and is demanded."""

Group = tuple[str, str, str, str]
"""Kind, company, agent and chat (empty for all kinds but messages) of events."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose events a client may see; `*` is anybody's.

    :param kind: `chats` for users (who also see messages of the chat looked at), `agents` for
        admins.
    """

    kind: str
    company: str
    agent: str

    def covers(self, company: str, agent: str) -> bool:
        """Tell whether events of this agent are within."""
        return self.company in ("*", company) and self.agent in ("*", agent)


@dataclass(slots=True)
class Choice:
    """A chat looked at: complete after `after` up to `sure`; nothing comes after `until`.
    An endless `after`: it was only asked for.

    :param number: of the connection that it was made or taken up again on.
    """

    chat: str
    after: int
    number: int
    sure: int = ENDLESS
    until: int = ENDLESS

    def complete(self, top: int) -> int:
        """Return up to where nothing of it is missing, `top` being what the client has got."""
        upto = min(self.sure, top)
        return upto if self.after == ENDLESS else max(upto, self.after)


@dataclass(slots=True)
class Gap:
    """What the gateway said is not coming: everything after `after`, up to `upto`.

    :param reason: `dropped`, or the reason of a `recovered:false`; `none` if nothing was said.
    :param chat: the thread it is about; empty: everything.
    :param at: when it was said, monotonic seconds.
    :param since: when the connection before was lost.
    :param filled: the gateway said later that all of it is given again, threads left since aside.
    :param left: nobody asks about it any more: the answer was final, or the thread was chosen anew
        without a position.
    """

    after: int
    upto: int
    reason: str
    at: float
    since: float
    chat: str = ""
    filled: bool = False
    left: bool = False


@dataclass(slots=True)
class Stretch:
    """One connection of a client.

    :param after: sequence of its `ready`.
    :param top: highest sequence that came by it, or `after`.
    """

    after: int
    pod: str
    began: float
    recovered: bool | None = None
    reason: str = ""
    replayed: int = 0
    top: int = 0
    ended: float = 0.0
    code: int = 0
    own: array[int] = field(default_factory=lambda: array("q"))
    threads: dict[str, array[int]] = field(default_factory=dict)
    dropped: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Account:
    """Everything that one client was told and given, in the order it came.

    :param positions: it follows its position and resumes: judged over its life. Else every
        connection is judged by itself.
    """

    name: str
    scope: Scope
    positions: bool
    stretches: list[Stretch] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    foreign: list[tuple[str, int]] = field(default_factory=list)
    disordered: list[tuple[str, int, int]] = field(default_factory=list)
    _lanes: dict[str, int] = field(default_factory=dict)

    @property
    def stretch(self) -> Stretch:
        """The connection that is there now, or was there last."""
        return self.stretches[-1]

    @property
    def top(self) -> int:
        """The highest sequence that it got, or was told to be complete up to."""
        return max((s.top for s in self.stretches), default=0)

    def ready(self, stretch: Stretch) -> None:
        """Take in a `ready`."""
        self.lost(stretch.began, 0)
        before, since = self.top, self.stretches[-1].ended if self.stretches else 0.0
        stretch.top = stretch.after
        if stretch.recovered:
            self.filled()
        if self.stretches and self.positions and not stretch.recovered:
            reason = stretch.reason or "none"
            self._leave_unless_passing(reason, "")
            self.gaps.append(Gap(before, stretch.after, reason, stretch.began, since))
        if self.choices:
            self.choices[-1].sure = min(self.choices[-1].sure, before)
        self.stretches.append(stretch)
        if not self.positions:
            self._lanes.clear()

    def lost(self, at: float, code: int) -> None:
        """The connection is gone."""
        if self.stretches and not self.stretch.ended:
            self.stretch.ended, self.stretch.code = at, code

    def asked(self, chat: str) -> None:
        """The client asks for a chat: of the one before nothing is sure any more, of this one
        events may come before it is.
        """
        if self.choices:
            self.choices[-1].sure = min(self.choices[-1].sure, self.stretch.top)
        for gap in self.gaps:
            gap.left = gap.left or bool(gap.chat)
        self.choices.append(Choice(chat, ENDLESS, len(self.stretches) - 1))

    def refused(self) -> None:
        """The gateway's word that the chat asked for is not looked at, nor the one before."""
        for choice in self.choices[-2:]:
            choice.sure = min(choice.sure, self.stretch.top)
            choice.until = min(choice.until, self.stretch.top)

    def chose(self, chat: str, after: int) -> None:
        """The gateway's word that a chat is complete after a sequence."""
        if self.choices and self.choices[-1].chat == chat and self.choices[-1].after == ENDLESS:
            self.choices.pop()
        if self.choices:
            last = self.choices[-1]
            last.sure = min(last.sure, self.stretch.top)
            if last.chat != chat:
                last.until = min(last.until, max(after, self.stretch.top))
        self.choices.append(Choice(chat, after, len(self.stretches) - 1))

    def took_up(self, chat: str) -> bool:
        """The gateway's word that the chat looked at last is complete over the time away."""
        if not self.choices or self.choices[-1].chat != chat:
            return False
        choice = self.choices[-1]
        if choice.after == ENDLESS:
            return False
        if self.gaps:
            # What could not be recovered before comes now, below what was live since.
            self._lanes.pop(chat, None)
        for gap in self._passing(chat):
            choice.after = min(choice.after, gap.after)
            gap.filled = True
        choice.sure = choice.until = ENDLESS
        choice.number = len(self.stretches) - 1
        return True

    def filled(self) -> None:
        """The gateway's word that what it dropped, or could not recover then, is given again."""
        for gap in self._passing(""):
            gap.filled = True

    def not_given(self, seq: int, reason: str, at: float, chat: str = "") -> None:
        """The gateway's word, on an open connection, that what was missed is not given again."""
        after = min((gap.after for gap in self._passing("")), default=self.top)
        if chat and self.choices and self.choices[-1].chat == chat:
            # Asked for a second time, it is what the first answer did not give.
            first = [gap.after for gap in self._passing(chat)]
            after = min(first, default=self.choices[-1].complete(self.top))
        self._leave_unless_passing(reason, chat)
        self.gaps.append(Gap(after, seq, reason, at, self._left_at(), chat))

    def _passing(self, chat: str) -> list[Gap]:
        return [
            gap
            for gap in self.gaps
            if gap.reason in PASSING and gap.chat == chat and not gap.filled and not gap.left
        ]

    def _leave_unless_passing(self, reason: str, chat: str) -> None:
        if reason not in PASSING:
            for gap in self._passing(chat):
                gap.left = True

    def _left_at(self) -> float:
        return self.stretches[-2].ended if len(self.stretches) > 1 else 0.0

    def told(self, after: int, upto: int, at: float) -> None:
        """The gateway dropped events of this slow client, and said so."""
        self.stretch.dropped.append((after, upto))
        self.gaps.append(Gap(after, upto, "dropped", at, at))

    def event(self, group: Group, seq: int) -> None:
        """Take in an event."""
        kind, company, agent, chat = group
        stretch = self.stretch
        of_thread = kind == "messages" and self.scope.kind == "chats"
        if not self.scope.covers(company, agent) or not (of_thread or kind == self.scope.kind):
            self.foreign.append((kind, seq))
            return
        lane = chat if self.positions else ""
        passed = self._lanes.get(lane, -1)
        if self.positions and not of_thread:
            # Only what a thread missed comes late: nothing may overtake the list.
            passed = max(passed, stretch.top)
        if seq <= passed and not self._is_given_late(seq):
            self.disordered.append((lane, passed, seq))
        self._lanes[lane] = max(seq, self._lanes.get(lane, -1))
        stretch.top = max(stretch.top, seq)
        if of_thread:
            stretch.threads.setdefault(chat, array("q")).append(seq)
        else:
            stretch.own.append(seq)

    def _is_given_late(self, seq: int) -> bool:
        return any(g.reason in PASSING and g.after < seq <= g.upto for g in self.gaps)


@dataclass(frozen=True)
class Verdict:
    """What was wrong with one client's events; all zero is right."""

    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    foreign: int = 0

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.disordered + other.disordered,
            self.foreign + other.foreign,
        )


@dataclass
class Judgement:
    """What was wrong with one client's events, with the events themselves."""

    lost: list[int] = field(default_factory=list)
    lost_of: Counter[str] = field(default_factory=Counter)
    doubled: list[int] = field(default_factory=list)
    disordered: list[tuple[str, int, int]] = field(default_factory=list)
    foreign: list[tuple[str, int]] = field(default_factory=list)
    wanted: int = 0
    excused: int = 0

    @property
    def verdict(self) -> Verdict:
        """The counts."""
        return Verdict(len(self.lost), len(self.doubled), len(self.disordered), len(self.foreign))


Published = Mapping[Group, "array[int]"]
"""Ascending sequences of everything in the stream, by group."""


def judge(account: Account, published: Published) -> Judgement:
    """Compare what came with what had to come."""
    result = Judgement(disordered=list(account.disordered), foreign=list(account.foreign))
    _judge_own(account, published, result)
    _judge_threads(account, published, result)
    return result


def expected(account: Account, published: Published, after: int, upto: int) -> int:
    """Return how many of a client's own events lie in a range, threads aside."""
    return sum(len(_between(seqs, after, upto)) for seqs in _own_groups(account, published))


def _own_groups(account: Account, published: Published) -> list[array[int]]:
    scope = account.scope
    return [
        seqs
        for (kind, company, agent, _), seqs in published.items()
        if kind == scope.kind and scope.covers(company, agent)
    ]


def _judge_own(account: Account, published: Published, result: Judgement) -> None:
    groups = _own_groups(account, published)
    everything = set(itertools.chain.from_iterable(groups))
    if account.positions:
        if not account.stretches:
            return
        got = list(itertools.chain.from_iterable(s.own for s in account.stretches))
        holes = [(gap.after, gap.upto) for gap in account.gaps if not gap.chat and not gap.filled]
        ranges = [(account.stretches[0].after, ENDLESS)]
        _compare(got, everything, groups, ranges, holes, result)
        return
    for stretch in account.stretches:
        upto = stretch.top if stretch.ended else ENDLESS
        ranges = [(stretch.after, upto)]
        _compare(list(stretch.own), everything, groups, ranges, stretch.dropped, result)


def _judge_threads(account: Account, published: Published, result: Judgement) -> None:
    chats = {c.chat for c in account.choices}
    chats.update(*(s.threads for s in account.stretches))
    for chat in chats:
        group = ("messages", account.scope.company, account.scope.agent, chat)
        seqs = published.get(group, array("q"))
        choices = [c for c in account.choices if c.chat == chat]
        possible = {s for c in choices for s in _between(seqs, 0, c.until)}
        holes = [
            (g.after, g.upto)
            for g in account.gaps
            if not g.chat or (g.chat == chat and not g.filled)
        ]
        spans: list[tuple[Iterable[Stretch], list[Choice]]]
        if account.positions:
            spans = [(account.stretches, choices)]
        else:
            spans = [
                ([stretch], [c for c in choices if c.number == number])
                for number, stretch in enumerate(account.stretches)
            ]
        for stretches, made in spans:
            got = list(itertools.chain.from_iterable(s.threads.get(chat, ()) for s in stretches))
            dropped = [d for s in stretches for d in s.dropped]
            tops = {id(c): _sure(account, c) for c in made}
            ranges = [(c.after, tops[id(c)]) for c in made]
            before = len(result.lost)
            _compare(got, possible, [seqs], ranges, holes + dropped, result)
            if len(result.lost) > before:
                result.lost_of[chat] += len(result.lost) - before


def _sure(account: Account, choice: Choice) -> int:
    """Return up to where a choice is surely complete: no further than its connection was."""
    stretch = account.stretches[choice.number]
    return min(choice.sure, stretch.top) if stretch.ended else choice.sure


def _compare(  # noqa: PLR0917
    got: list[int],
    possible: set[int],
    groups: list[array[int]],
    ranges: list[tuple[int, int]],
    holes: list[tuple[int, int]],
    result: Judgement,
) -> None:
    must: set[int] = set()
    for after, upto in ranges:
        for seqs in groups:
            must.update(_between(seqs, after, upto))
    missing = must.difference(got)
    lost = {seq for seq in missing if not any(a < seq <= b for a, b in holes)}
    result.wanted += len(must)
    result.excused += len(missing) - len(lost)
    result.lost += sorted(lost)
    result.doubled += [seq for seq, times in Counter(got).items() if times > 1]
    result.foreign += [("unwanted", seq) for seq in sorted(set(got) - possible)]


def _between(seqs: array[int], after: int, upto: int) -> array[int]:
    return seqs[bisect_right(seqs, after) : bisect_right(seqs, upto)]


def place(generation: int, seq: int) -> int:
    """Return a sequence counted over all streams of one name."""
    return generation * GENERATION + seq
