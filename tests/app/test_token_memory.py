"""Valid tokens in a worker's memory."""

from __future__ import annotations

from daisi_ws.app.token_memory import TokenMemory
from daisi_ws.domain import principal

ANN = principal.user("acme", "bot", "ann", 1000.0)


def test_known_until_its_time() -> None:
    """An entry counts until its time is up, and is forgotten then."""
    memory = TokenMemory(10)
    memory.put("user", b"d", ANN, 50.0)
    assert memory.get("user", b"d", 49.9) is ANN
    assert memory.get("user", b"d", 50.0) is None
    assert len(memory) == 0


def test_expiry_counts_whatever_the_entry_says() -> None:
    """A token that has expired is not known, however long its entry was to last."""
    memory = TokenMemory(10)
    memory.put("user", b"d", ANN, 1e12)
    assert memory.get("user", b"d", 999.9) is ANN
    assert memory.get("user", b"d", 1000.0) is None


def test_kinds_are_apart() -> None:
    """A user's token is unknown as an admin's."""
    memory = TokenMemory(10)
    memory.put("user", b"d", ANN, 50.0)
    assert memory.get("admin", b"d", 0.0) is None


def test_size_is_bounded() -> None:
    """The token that was used longest ago is forgotten first."""
    memory = TokenMemory(3)
    for digest in (b"1", b"2", b"3"):
        memory.put("user", digest, ANN, 50.0)
    assert memory.get("user", b"1", 0.0)
    memory.put("user", b"4", ANN, 50.0)
    assert len(memory) == 3
    assert [memory.get("user", d, 0.0) is ANN for d in (b"1", b"2", b"3", b"4")] == [
        True,
        False,
        True,
        True,
    ]


def test_entry_is_replaced_by_a_newer_one() -> None:
    """Putting the same token again renews its entry instead of adding one."""
    memory = TokenMemory(3)
    for good_until in (10.0, 20.0):
        memory.put("user", b"1", ANN, good_until)
    assert len(memory) == 1
    assert memory.get("user", b"1", 15.0) is ANN
