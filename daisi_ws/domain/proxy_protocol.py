"""The PROXY protocol, versions 1 and 2: a proxy's word on who a TCP connection comes from.

Source: https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, section numbers below.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What a header of version 2 begins with (2.2): no line of HTTP, nor of any other text."""

LONGEST_V1: Final = 107
"""Bytes of the longest header of version 1, its end included (2.1)."""

LONGEST_V2: Final = 4096
"""Bytes that addresses and extensions of version 2 may have. The protocol allows 65,535."""

_V1: Final = b"PROXY "
_HEAD: Final = 16
_LOCAL, _PROXY = 0, 1
_ADDRESS_BYTES: Final = {0: 0, 1: 12, 2: 36, 3: 216}
_STREAM: Final = 1
_TRANSPORTS: Final = 2


class Malformed(Exception):
    """No PROXY header, or one that breaks the rules; the text says how."""


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header.

    :param source: the client's address; None where the proxy speaks for itself, or cannot say.
    :param size: bytes it has; what follows is the client's.
    """

    source: str | None
    size: int


def is_header(data: bytes) -> bool | None:
    """Tell whether these bytes begin a header; None while that cannot be said yet."""
    for mark in (_V1, SIGNATURE):
        if data.startswith(mark):
            return True
        if mark.startswith(data):
            return None
    return False


def parse(data: bytes) -> Header | None:
    """Read a header; None while it is not whole.

    :raises Malformed: it will never be one.
    """
    found = is_header(data)
    if found is False:
        raise Malformed("there is none")
    if not found:
        return None
    return _text(data) if data.startswith(_V1) else _binary(data)


def _text(data: bytes) -> Header | None:
    """Read version 1 (2.1): `PROXY TCP4 source destination port port` in one line."""
    end = data.find(b"\r\n", 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise Malformed(f"no end of line within {LONGEST_V1} bytes")
        return None
    fields = data[len(_V1) : end].split(b" ")
    if fields[0] == b"UNKNOWN":
        return Header(None, end + 2)
    if len(fields) != 5 or fields[0] not in (b"TCP4", b"TCP6"):
        raise Malformed("want TCP4 or TCP6, two addresses and two ports, or UNKNOWN")
    if not all(_is_port(port) for port in fields[3:]):
        raise Malformed("a port is none")
    kind = IPv4Address if fields[0] == b"TCP4" else IPv6Address
    try:
        source, _ = (kind(field.decode("ascii")) for field in fields[1:3])
    except (AddressValueError, UnicodeDecodeError):
        raise Malformed("an address is none of its family") from None
    return Header(str(source), end + 2)


def _is_port(text: bytes) -> bool:
    return (
        text.isdigit()
        and len(text) <= 5
        and int(text) <= 65_535
        and str(int(text)) == text.decode()
    )


def _binary(data: bytes) -> Header | None:
    """Read version 2 (2.2): signature, command, family, length, addresses, extensions."""
    if len(data) < _HEAD:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    size = int.from_bytes(data[14:_HEAD], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise Malformed(f"version {version}, command {command}")
    known = family in _ADDRESS_BYTES and transport <= _TRANSPORTS
    # With LOCAL the family is to be ignored.
    if command == _PROXY and not known:
        raise Malformed(f"family {family}, transport {transport}")
    if size > LONGEST_V2:
        raise Malformed(f"{size} bytes announced, at most {LONGEST_V2} are taken")
    if command == _PROXY and size < _ADDRESS_BYTES[family]:
        raise Malformed(f"{size} bytes are too few for addresses of family {family}")
    if len(data) < _HEAD + size:
        return None
    source = None
    if command == _PROXY and transport == _STREAM:
        source = _source(family, data)
    return Header(source, _HEAD + size)


def _source(family: int, data: bytes) -> str | None:
    if family == 1:
        return str(IPv4Address(data[_HEAD : _HEAD + 4]))
    if family == 2:
        return str(IPv6Address(data[_HEAD : _HEAD + 16]))
    return None
