"""The accounts find what is wrong, and nothing else."""

from __future__ import annotations

from array import array

import pytest

from tests.chaos.account import Account, Group, Scope, Stretch, Verdict, judge

CHATS: Group = ("chats", "acme", "bot", "")
ONE: Group = ("messages", "acme", "bot", "one")
TWO: Group = ("messages", "acme", "bot", "two")
OTHER: Group = ("chats", "other", "bot", "")


def published(**seqs: list[int]) -> dict[Group, array[int]]:
    """Return a stream's sequences by group: `chats`, `one`, `two`, `other`."""
    groups = {"chats": CHATS, "one": ONE, "two": TWO, "other": OTHER}
    return {groups[name]: array("q", found) for name, found in seqs.items()}


def account(*, positions: bool = True) -> Account:
    """Return a user's account with a first connection after sequence 10."""
    made = Account("ann", Scope("chats", "acme", "bot"), positions)
    made.ready(Stretch(10, "pod", 0.0))
    return made


def got(client: Account, *seqs: int, group: Group = CHATS) -> None:
    """Let events come."""
    for seq in seqs:
        client.event(group, seq)


def back(client: Account, after: int, *, recovered: bool | None, reason: str = "") -> None:
    """Lose the connection, and come back."""
    client.lost(1.0, 1006)
    client.ready(Stretch(after, "pod", 2.0, recovered, reason))


def test_all_is_well() -> None:
    """What came before `ready` is not asked for, and what is others' neither."""
    client = account()
    got(client, 11, 13)
    assert judge(client, published(chats=[5, 11, 13], other=[12])).verdict == Verdict()


@pytest.mark.parametrize(
    ("seqs", "wrong"),
    [
        ([11], Verdict(lost=1)),
        ([11, 12, 12], Verdict(doubled=1, disordered=1)),
        ([12, 11], Verdict(disordered=1)),
        ([11, 12, 14], Verdict(foreign=1)),
    ],
)
@pytest.mark.parametrize("positions", [True, False])
def test_each_kind_of_wrong(seqs: list[int], wrong: Verdict, *, positions: bool) -> None:
    """Lost, doubled, out of order, never published."""
    client = account(positions=positions)
    got(client, *seqs)
    assert judge(client, published(chats=[11, 12])).verdict == wrong


def test_events_of_others_are_foreign() -> None:
    """Another tenant's, another kind."""
    client = account()
    got(client, 11, group=OTHER)
    client.event(("agents", "acme", "bot", ""), 12)
    assert judge(client, published(other=[11])).verdict == Verdict(foreign=2)


def test_with_positions_nothing_is_missed_over_connections() -> None:
    """What came while it was away is demanded where the gateway said that it recovers."""
    client = account()
    got(client, 11)
    back(client, 11, recovered=True)
    got(client, 13)
    assert judge(client, published(chats=[11, 12, 13])).lost == [12]


def test_what_is_told_not_to_come_is_not_lost_but_a_gap() -> None:
    """With its reason, to be explained."""
    client = account()
    got(client, 11)
    back(client, 12, recovered=False, reason="too_many")
    got(client, 13)
    judgement = judge(client, published(chats=[11, 12, 13]))
    assert (judgement.verdict, judgement.excused) == (Verdict(), 1)
    assert [(g.after, g.upto, g.reason) for g in client.gaps] == [(11, 12, "too_many")]


def test_without_positions_each_connection_is_judged_alone() -> None:
    """To its end only a prefix is demanded; what it gets again on the next is not doubled."""
    client = account(positions=False)
    got(client, 11, 12)
    back(client, 11, recovered=None)
    got(client, 12, 15)
    judgement = judge(client, published(chats=[11, 12, 13, 15]))
    assert judgement.lost == [13]
    assert judgement.verdict == Verdict(lost=1)


def test_a_told_drop_is_no_loss_until_it_is_said_to_be_given_again() -> None:
    """A slow client that resumes has to get all of it, in whatever order to what follows."""
    client = account()
    got(client, 11)
    client.told(11, 13, 1.0)
    got(client, 14)
    stream = published(chats=[11, 12, 13, 14])
    assert judge(client, stream).verdict == Verdict()
    client.filled()
    assert judge(client, stream).lost == [12, 13]
    got(client, 12, 13)
    assert judge(client, stream).verdict == Verdict()


def test_what_was_refused_for_good_is_not_demanded_by_a_later_recovery() -> None:
    """The client asked for it once more, and it was too much: it goes on from there."""
    client = account()
    got(client, 11)
    client.told(11, 13, 1.0)
    got(client, 14)
    back(client, 15, recovered=False, reason="too_large")
    back(client, 15, recovered=True)
    got(client, 17)
    stream = published(chats=[11, 12, 13, 14, 17, 18])
    assert judge(client, stream).lost == [18]


def test_what_was_too_busy_to_be_recovered_may_be_given_later() -> None:
    """The client asks again: then it has to come, below what came meanwhile."""
    client = account()
    got(client, 11)
    back(client, 13, recovered=False, reason="busy")
    got(client, 14)
    client.filled()
    stream = published(chats=[11, 12, 13, 14])
    assert judge(client, stream).lost == [12, 13]
    got(client, 12, 13)
    assert judge(client, stream).verdict == Verdict()
    assert all(gap.filled for gap in client.gaps)


def test_a_thread_that_was_too_busy_may_be_given_later() -> None:
    """As the rest, and it is demanded from where it was left."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    back(client, 21, recovered=True)
    client.not_given(30, "busy", 3.0, "one")
    client.chose("one", 30)
    got(client, 31, group=ONE)
    assert client.took_up("one")
    stream = published(one=[21, 25, 31])
    assert judge(client, stream).lost == [25]
    got(client, 25, group=ONE)
    assert judge(client, stream).verdict == Verdict()


def test_a_thread_overtakes_nothing() -> None:
    """What it missed comes late; of the list, nothing does."""
    client = account()
    client.chose("one", 20)
    got(client, 22)
    got(client, 21, 25, group=ONE)
    stream = published(chats=[22, 24], one=[21, 25])
    got(client, 24)
    assert judge(client, stream).verdict == Verdict(disordered=1)


def test_a_thread_may_be_too_busy_more_than_once() -> None:
    """Asked for again on the same connection, what was missing is still the same."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    back(client, 21, recovered=True)
    client.not_given(30, "unavailable", 3.0, "one")
    client.chose("one", 30)
    got(client, 31, group=ONE)
    client.not_given(31, "unavailable", 4.0, "one")
    client.chose("one", 31)
    got(client, 33, group=ONE)
    stream = published(one=[21, 25, 31, 33])
    assert judge(client, stream).verdict == Verdict()
    assert client.took_up("one")
    assert judge(client, stream).lost == [25]
    got(client, 25, group=ONE)
    assert judge(client, stream).verdict == Verdict()


def test_a_thread_in_which_nothing_came_is_missed_from_where_it_was_chosen() -> None:
    """Not from the last event before that."""
    client = account()
    client.chose("one", 20)
    back(client, 25, recovered=True)
    client.not_given(30, "unavailable", 3.0, "one")
    client.chose("one", 30)
    assert client.took_up("one")
    assert judge(client, published(one=[15, 22])).lost == [22]


def test_a_thread_that_was_left_is_not_demanded_when_it_is_chosen_anew() -> None:
    """What could not be given then is nobody's question any more."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    back(client, 21, recovered=True)
    client.not_given(30, "unavailable", 3.0, "one")
    client.chose("one", 30)
    client.asked("two")
    client.chose("two", 40)
    client.asked("one")
    client.chose("one", 50)
    got(client, 51, group=ONE)
    back(client, 51, recovered=True)
    assert client.took_up("one")
    stream = published(one=[21, 25, 45, 51, 53])
    assert judge(client, stream).lost == [53]
    got(client, 53, group=ONE)
    assert judge(client, stream).verdict == Verdict()


def test_a_chat_is_demanded_from_its_done_to_the_next_choice() -> None:
    """And allowed until the next one is live."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    client.asked("two")
    got(client, 23, group=ONE)
    client.chose("two", 24)
    stream = published(one=[15, 21, 22, 23, 25], two=[24, 26])
    assert judge(client, stream).lost == [26]
    got(client, 26, group=TWO)
    assert judge(client, stream).verdict == Verdict()
    got(client, 25, group=ONE)
    assert judge(client, stream).verdict.foreign == 1


def test_a_chat_that_is_refused_may_have_come_until_then() -> None:
    """Nothing of it is demanded."""
    client = account()
    client.asked("two")
    got(client, 21, group=TWO)
    client.refused()
    stream = published(two=[21, 22, 23])
    assert judge(client, stream).verdict == Verdict()
    got(client, 22, group=TWO)
    assert judge(client, stream).verdict == Verdict(foreign=1)


def test_a_chat_taken_up_again_misses_nothing() -> None:
    """Its thread is given again after a redial, also below what came meanwhile."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    back(client, 21, recovered=True)
    got(client, 30)
    assert client.took_up("one")
    stream = published(chats=[30], one=[21, 25])
    assert judge(client, stream).lost == [25]
    got(client, 25, group=ONE)
    assert judge(client, stream).verdict == Verdict()


def test_a_chat_chosen_anew_after_a_redial_is_demanded_from_there() -> None:
    """What came between the connections is not."""
    client = account()
    client.chose("one", 20)
    got(client, 21, group=ONE)
    back(client, 21, recovered=True)
    client.chose("one", 26)
    assert judge(client, published(one=[21, 25, 27])).lost == [27]
