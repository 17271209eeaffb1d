"""When a pull consumer is asked for more, and for how much."""

from __future__ import annotations

import json

import pytest

from daisi_ws.adapters.nats_pulls import READER_EXPIRY_SHARE, STANDBY_EXPIRY_SECONDS, Pulls
from daisi_ws.domain.consumer import GROUP, ConsumerSettings, Mode


class At:
    """Pulls of up to ten messages, and their clock."""

    def __init__(self, mode: Mode = "ordered") -> None:
        self.now = 100.0
        settings = ConsumerSettings("ws_fanout", mode, 30.0, 100, 2.0)
        self.pulls = Pulls(settings, 10, lambda: self.now)

    def request(self, pin: str | None = None) -> dict[str, object] | None:
        """Return the next request."""
        found = self.pulls.request(pin)
        return None if found is None else dict(json.loads(found))


@pytest.fixture
def at() -> At:
    """Nothing was asked for yet."""
    return At()


def test_who_stands_by_asks_once_and_long(at: At) -> None:
    """As many as may be outstanding, in the group; then not again until half has come."""
    expires = int(STANDBY_EXPIRY_SECONDS * 1e9)
    assert at.request() == {"batch": 10, "group": GROUP, "expires": expires}
    assert at.request() is None
    for _ in range(4):
        at.pulls.came()
    assert (at.pulls.low, at.request()) == (False, None)
    at.pulls.came()
    assert at.request() == {"batch": 5, "group": GROUP, "expires": expires}


def test_the_reader_names_its_pin_and_asks_for_a_short_time(at: At) -> None:
    """Well under the priority timeout, or the pin would be lost."""
    request = at.request("pin")
    assert request is not None
    assert request["id"] == "pin"
    assert request["expires"] == int(2.0 * READER_EXPIRY_SHARE * 1e9)


def test_a_plain_consumer_has_no_group() -> None:
    """In shared mode all pods pull alike."""
    request = At("shared").request("pin")
    assert request is not None
    assert not request.keys() & {"group", "id"}


def test_what_a_pull_did_not_bring_is_asked_for_again(at: At) -> None:
    """All of it, where the server does not say how much that is."""
    at.request()
    at.pulls.ended(3)
    assert at.request() is None
    at.pulls.ended(4)
    assert at.request() is not None
    at.pulls.ended(None)
    request = at.request()
    assert request is not None
    assert request["batch"] == 10


def test_nothing_is_asked_for_while_paused(at: At) -> None:
    """And that is not late."""
    at.request()
    at.pulls.forget()
    at.pulls.paused = True
    assert at.request() is None
    at.now += 60
    assert not at.pulls.late
    at.pulls.paused = False
    assert at.pulls.late
    at.request()
    assert not at.pulls.late


def test_silence_is_told_once_a_while(at: At) -> None:
    """After the pull has expired; of who asked for nothing only if asked to."""
    assert not at.pulls.silent(asked=False)
    at.request()
    assert not at.pulls.silent(asked=False)
    at.now += STANDBY_EXPIRY_SECONDS + 1.1
    assert at.pulls.silent(asked=False)
    assert not at.pulls.silent(asked=True)
    at.now += 1.1
    assert at.pulls.silent(asked=True)
    assert not at.pulls.silent(asked=False)
