"""What clients of the chaos run enter into their accounts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from daisi_ws.client import Done, user_url
from daisi_ws.client.frames import _DoneBody
from tests.chaos.account import ENDLESS, Account, Scope, Stretch
from tests.chaos.crowd import GATEWAY, Told, Watcher
from tests.chaos.meter import Meter


@pytest.fixture
async def watcher() -> AsyncIterator[Watcher]:
    """A client that was ready once; nothing is sent."""
    account = Account("ann", Scope("chats", "acme", "bot"), positions=True)
    account.ready(Stretch(10, "pod", 0.0))
    made = Watcher(
        account,
        url=user_url(GATEWAY, "acme", "bot"),
        ports=[1],
        key="",
        token="",
        streams={"": 0},
        meter=Meter(),
        told=Told(),
        chance=random.Random(1),
    )
    yield made
    await made._session.close()


async def test_the_answer_to_a_choice_that_was_left_is_not_that_of_the_next(
    watcher: Watcher,
) -> None:
    """A chat that could not be recovered is asked for again, and left before the answer comes."""
    choice = watcher.client._talk._choice
    choice.choose("one")
    left, _ = choice.expect()
    choice.choose("two")
    watcher.account.asked("two")
    chosen, _ = choice.expect()
    watcher.on_frame(Done(left, _DoneBody(20)))
    assert [(c.chat, c.after) for c in watcher.account.choices] == [("two", ENDLESS)]
    watcher.on_frame(Done(chosen, _DoneBody(30)))
    assert [(c.chat, c.after) for c in watcher.account.choices] == [("two", 30)]
