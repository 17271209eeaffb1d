"""Free ports are free, consecutive and out of the kernel's way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from daisi_ws.embedded import ports


def test_every_port_of_a_range_can_be_listened_on() -> None:
    """All consecutive ports can be taken at the same time."""
    first = ports.free_ports(4)
    listeners = [socket.create_server(("127.0.0.1", port)) for port in range(first, first + 4)]
    for listener in listeners:
        listener.close()


def test_ports_are_outside_the_ephemeral_range() -> None:
    """An outgoing connection never gets a port that a server was given."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert not low <= ports.free_ports() <= high


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_not_free(address: str) -> None:
    """A listener at one address takes the port at all of them."""
    with socket.create_server((address, 0)) as listener:
        assert not ports.is_free(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("ephemeral", "expected"),
    [
        ("32768\t60999", (10_000, 32_768)),
        ("1024 40000", (40_001, 65_536)),
        ("1024 65535", (10_000, 65_536)),
        ("no numbers", (10_000, 32_768)),
    ],
)
def test_candidates_avoid_the_ephemeral_range_where_that_leaves_enough(
    ephemeral: str,
    expected: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The search goes below the range, else above it, else anywhere."""
    file = tmp_path / "ip_local_port_range"
    file.write_text(ephemeral)
    monkeypatch.setattr(ports, "_RANGE_FILE", file)
    assert ports._candidates() == expected


def test_no_free_ports_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without free ports is said, not looped over."""
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    with pytest.raises(OSError, match="no 2 consecutive free ports"):
        ports.free_ports(2)
