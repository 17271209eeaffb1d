"""Whose word on a client's address counts."""

from __future__ import annotations

import pytest

from daisi_ws.domain.client_address import TrustedProxies, plain_address, subscriber

TRUSTED = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        # the peer is the client
        ("198.51.100.1", [], "198.51.100.1"),
        ("10.1.1.1", [], "10.1.1.1"),
        ("198.51.100.1", ["203.0.113.9"], "198.51.100.1"),
        # one proxy
        ("10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        ("192.0.2.7", ["203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        # what the client itself wrote stands before what the proxy saw
        ("10.1.1.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["10.2.2.2, 203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
        ("10.1.1.1", ["203.0.113.9", "1.1.1.1,10.2.2.2"], "1.1.1.1"),
        # several proxies
        ("10.1.1.1", ["1.1.1.1, 203.0.113.9, 10.2.2.2,192.0.2.7"], "203.0.113.9"),
        ("10.1.1.1", ["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        # spellings
        ("10.1.1.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.1.1.1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.1.1.1", ["[2001:DB8:0::5]"], "2001:db8::5"),
        ("10.1.1.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.1.1.1", ["203.0.113.9"], "203.0.113.9"),
        # what is no address ends the list: the hop that passed it on is the last known
        ("10.1.1.1", ["unknown"], "10.1.1.1"),
        ("10.1.1.1", [""], "10.1.1.1"),
        ("10.1.1.1", ["203.0.113.9, "], "10.1.1.1"),
        ("10.1.1.1", ["203.0.113.9, garbage, 10.2.2.2"], "10.2.2.2"),
        ("10.1.1.1", ["300.1.1.1"], "10.1.1.1"),
        ("10.1.1.1", ["203.0.113.9\r\nX: y"], "10.1.1.1"),
    ],
)
def test_the_client_is_the_last_hop_not_trusted(
    peer: str, forwarded_for: list[str], client: str
) -> None:
    """The header is read from its end, as far as each hop was told by a trusted proxy."""
    assert TRUSTED.client(peer, forwarded_for) == client


def test_nobody_is_trusted_unasked() -> None:
    """Without networks the header counts for nothing."""
    assert TrustedProxies().client("10.1.1.1", ["203.0.113.9"]) == "10.1.1.1"
    assert not TrustedProxies()
    assert "127.0.0.1" not in TrustedProxies()


def test_what_is_known_of_peers_is_bounded() -> None:
    """A flood of peers does not pile up, and the answers stay right."""
    trusted = TrustedProxies(["10.0.0.0/8"])
    for number in range(5000):
        assert f"11.0.{number // 256}.{number % 256}" not in trusted
        assert f"10.0.{number // 256}.{number % 256}" in trusted
    assert len(trusted._known) <= 1024


@pytest.mark.parametrize(
    ("address", "shown", "stands_for"),
    [
        ("203.0.113.9", "203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9", "::ffff:203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "20010db800010002::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::", "20010db800010002::/64"),
        ("no:address", "no:address", "no:address"),
        ("", "", ""),
    ],
)
def test_how_an_address_is_shown_and_counted(address: str, shown: str, stands_for: str) -> None:
    """IPv4 in IPv6 is IPv4; a customer's /64 counts as one."""
    assert plain_address(address) == shown
    assert subscriber(address).zfill(len(stands_for)) == stands_for
