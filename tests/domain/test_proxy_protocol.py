"""Headers of the PROXY protocol."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest

from daisi_ws.domain.proxy_protocol import (
    LONGEST_V2,
    SIGNATURE,
    Header,
    Malformed,
    is_header,
    parse,
)


def v2(addresses: bytes, family: int = 0x11, command: int = 0x21, size: int | None = None) -> bytes:
    """Return a header of version 2."""
    length = len(addresses) if size is None else size
    return SIGNATURE + bytes((command, family)) + length.to_bytes(2, "big") + addresses


def addresses(source: str, destination: str) -> bytes:
    """Return both addresses and two ports."""
    return ip_address(source).packed + ip_address(destination).packed + b"\x12\x34\x00\x50"


IPV4 = addresses("203.0.113.9", "10.1.1.1")
IPV6 = addresses("2001:db8::5", "fd00::1")
TLV = b"\x03\x00\x04\x00\x00\x00\x00" + b"\x02\x00\x0bexample.org" + b"\xee\x00\x00"

WHOLE = [
    (b"PROXY TCP4 203.0.113.9 10.1.1.1 56324 443\r\n", "203.0.113.9"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:db8::5 fd00::1 0 443\r\n", "2001:db8::5"),
    (
        b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
        "ffff:" * 7 + "ffff",
    ),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", None),
    (v2(IPV4), "203.0.113.9"),
    (v2(IPV6, 0x21), "2001:db8::5"),
    (v2(IPV4 + TLV), "203.0.113.9"),
    (v2(IPV6 + TLV, 0x21), "2001:db8::5"),
    (v2(IPV4 + b"\x04" + bytes(LONGEST_V2 - 13)), "203.0.113.9"),
    (v2(b"", 0x00, 0x20), None),
    (v2(IPV4, 0x11, 0x20), None),  # LOCAL: the addresses mean nothing
    (v2(b"xyz", 0x11, 0x20), None),
    (v2(b"", 0x41, 0x20), None),
    (v2(b"xyz", 0x13, 0x20), None),
    (v2(b"", 0x00), None),
    (v2(b"anything", 0x00), None),
    (v2(IPV4, 0x12), None),  # a datagram's
    (v2(bytes(216), 0x31), None),  # a local socket's
]
BROKEN = [
    b"GET / HTTP/1.1\r\n",
    b"proxy TCP4 203.0.113.9 10.1.1.1 56324 443\r\n",
    b"PROXY  TCP4 203.0.113.9 10.1.1.1 56324 443\r\n",
    b"PROXY\tTCP4 203.0.113.9 10.1.1.1 56324 443\r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 56324 443 \r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 56324\r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 56324 65536\r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 -1 443\r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 056 443\r\n",
    b"PROXY TCP4 203.0.113.9 10.1.1.1 \xb2 443\r\n",
    b"PROXY TCP4 203.0.113 10.1.1.1 56324 443\r\n",
    b"PROXY TCP4 203.0.113.009 10.1.1.1 56324 443\r\n",
    b"PROXY TCP4 2001:db8::5 fd00::1 56324 443\r\n",
    b"PROXY TCP6 203.0.113.9 10.1.1.1 56324 443\r\n",
    b"PROXY TCP6 \xff\xff fd00::1 56324 443\r\n",
    b"PROXY UDP4 203.0.113.9 10.1.1.1 56324 443\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4 " + b"1" * 200,
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    SIGNATURE[:-1] + b"\r",
    v2(IPV4, command=0x11),
    v2(IPV4, command=0x31),
    v2(IPV4, command=0x22),
    v2(IPV4, 0x41),
    v2(IPV4, 0x13),
    v2(IPV4[:-1]),
    v2(IPV6[:-1], 0x21),
    v2(bytes(215), 0x31),
    v2(b"", size=LONGEST_V2 + 1),
    v2(b"", size=65_535),
]


@pytest.mark.parametrize(("header", "source"), WHOLE)
def test_whole_headers(header: bytes, source: str | None) -> None:
    """Source and size are found; what follows is not looked at; split anywhere it waits."""
    for rest in (b"", b"GET / HTTP/1.1\r\n\r\n", header):
        assert parse(header + rest) == Header(source, len(header))
    for end in range(len(header)):
        assert parse(header[:end]) is None
        assert is_header(header[:end]) in (None, True)


@pytest.mark.parametrize("data", BROKEN)
def test_broken_headers(data: bytes) -> None:
    """What breaks the rules is refused with a reason, not read in part."""
    with pytest.raises(Malformed) as caught:
        parse(data)
    assert str(caught.value)


def test_what_begins_a_header() -> None:
    """It can be told from the first bytes, and is never taken for HTTP."""
    assert is_header(b"") is is_header(b"P") is is_header(b"\r\n") is None
    assert is_header(b"PO") is is_header(b"\r\nGET") is is_header(b"GET /") is False
    assert is_header(b"PROXY ") is is_header(SIGNATURE) is True


def test_garbage_is_told_or_waited_for() -> None:
    """Spoiled headers are read, refused or waited for, within their bounds; nothing else comes."""
    chance = random.Random(11)
    for _ in range(20_000):
        data = bytearray(chance.choice(WHOLE)[0][:300])
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        spoiled = bytes(data) + chance.randbytes(chance.randrange(20))
        try:
            found = parse(spoiled)
        except Malformed:
            continue
        if found is None:
            assert len(spoiled) < 16 + LONGEST_V2
        else:
            assert found.size <= len(spoiled)
            assert found.source is None or ip_address(found.source)
