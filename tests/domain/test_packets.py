"""The packets of the Forward stream."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain import packets
from daisi_ws.domain.packets import (
    Accepted,
    Barrier,
    BarrierReply,
    Batch,
    Displace,
    Displaced,
    Failed,
    Hello,
    Item,
    MalformedPacket,
    Reply,
    Request,
    Stale,
)

ITEM = Item(7, 1_700_000_000_000_000_000, "websocket.acme.support.chats", b'{"a":"\xc3\xa4"}', "r1")


@pytest.mark.parametrize(
    "packet",
    [
        Hello("gateway-1-0-3"),
        Batch(2, "wa_stream@1", 9, [ITEM], 1),
        Batch(0, "", -1, [], 2**40),
        Barrier(1, ["websocket.*.*.agents"]),
        Displace(2, "session:acme:support:ann", "gateway-1-0-3#c1"),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_requests_survive_the_way(packet: Request) -> None:
    """What one side encodes the other decodes as the same."""
    assert packets.decode_request(packets.encode(packet)) == packet


@pytest.mark.parametrize(
    "packet",
    [
        Accepted(2, 9, 1),
        Stale(3, 1),
        BarrierReply(1, reading=False),
        BarrierReply(1, True, 2, "wa_stream@1", 9),
        Displaced(2),
        Failed(2, "Redis is away"),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_replies_survive_the_way(packet: Reply) -> None:
    """What one side encodes the other decodes as the same."""
    assert packets.decode_reply(packets.encode(packet)) == packet


def test_a_field_added_by_a_newer_pod_is_ignored() -> None:
    """Fields are only added at the end: an older pod reads what it knows."""
    newer = msgspec.msgpack.encode([0, "gateway-1-0-3", "gateway-2-0-1", {"features": ["x"]}])
    assert packets.decode_request(newer) == Hello("gateway-1-0-3", "gateway-2-0-1")
    older = msgspec.msgpack.encode([0, "gateway-1-0-3"])
    assert packets.decode_request(older) == Hello("gateway-1-0-3")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"hello",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([0]),
        msgspec.msgpack.encode([0, 17]),
        msgspec.msgpack.encode([1, 2, "s", 9, [["seven", 0, "", b""]], 1]),
        b"\x92\x00\xa1\xff",
        b"\x95\x01\x00\xa1s\x00\xdd\xff\xff\xff\xff",
        b"\x93\x00\xa1a" + b"\x91" * 200_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_packet_is_malformed(body: bytes) -> None:
    """Not MessagePack, unknown tag, field missing or of another type, bad UTF-8, lying lengths."""
    with pytest.raises(MalformedPacket):
        packets.decode_request(body)


@pytest.mark.parametrize("packet", [Accepted(2, 9, 1), Failed(2, "x")])
def test_a_reply_is_no_request(packet: Reply) -> None:
    """The sides cannot be confused."""
    with pytest.raises(MalformedPacket):
        packets.decode_request(packets.encode(packet))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_packet_or_malformed(body: bytes) -> None:
    """Whatever arrives, nothing else is raised."""
    with suppress(MalformedPacket):
        packets.decode_request(body)
    with suppress(MalformedPacket):
        packets.decode_reply(body)
