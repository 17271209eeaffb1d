"""WebSocket framing (RFC 6455 section 5)."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daisi_ws.domain.wire import FrameCheck, close_frame, ping_frame, pong_frame, text_frame


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x81\x00"),
        (5, b"\x81\x05"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (256, b"\x81\x7e\x01\x00"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_text_frames_have_the_shortest_length(size: int, header: bytes) -> None:
    """Lengths of 7, 16 and 64 bits, the shortest that fits (the examples of section 5.7)."""
    assert text_frame(b"x" * size) == header + b"x" * size


def test_control_frames() -> None:
    """Ping, pong and close, as in section 5.7 and 5.5.1."""
    assert ping_frame() == b"\x89\x00"
    assert ping_frame(b"Hello") == b"\x89\x05Hello"
    assert pong_frame(b"Hello") == b"\x8a\x05Hello"
    assert close_frame(1000, "") == b"\x88\x02\x03\xe8"
    assert close_frame(4402, "gone") == b"\x88\x06\x11\x32gone"


def test_a_close_reason_is_cut_to_what_a_control_frame_holds() -> None:
    """A control frame's payload has at most 125 bytes."""
    frame = close_frame(1000, "x" * 500)
    assert frame[1] == 125
    assert len(frame) == 127


def client_frame(size: int, *, masked: bool, opcode: int = 0x81) -> bytes:
    """Return a client's frame whose masking key and payload look like unmasked headers."""
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes((opcode, bit | size))
    elif size < 65536:
        head = bytes((opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((opcode, bit | 127)) + size.to_bytes(8, "big")
    return head + (b"\x00\x01\x02\x03" if masked else b"") + b"\x01" * size


frame_sizes = st.lists(
    st.sampled_from([0, 1, 2, 5, 124, 125, 126, 127, 300, 65535, 65536, 70000]), max_size=6
)
cuts = st.lists(st.integers(0, 200_000), max_size=12)


def pieces(data: bytes, at: list[int]) -> list[bytes]:
    """Cut data at the given places."""
    edges = [0, *sorted(min(cut, len(data)) for cut in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(sizes=frame_sizes, at=cuts)
def test_masked_frames_pass_however_they_are_cut(sizes: list[int], at: list[int]) -> None:
    """The headers are followed through any pieces, and the frames counted."""
    check = FrameCheck()
    data = b"".join(client_frame(size, masked=True) for size in sizes)
    assert not any(check.refuses(piece) for piece in pieces(data, at))
    assert check.frames == len(sizes)


@given(sizes=frame_sizes, size=st.integers(0, 125))
def test_a_pong_that_comes_alone_is_told(sizes: list[int], size: int) -> None:
    """Whatever came before it, and only if it is whole and nothing else."""
    check = FrameCheck()
    assert not any(check.refuses(client_frame(n, masked=True)) for n in sizes)
    pong = client_frame(size, masked=True, opcode=0x8A)
    assert check.is_pong(pong)
    others = [
        b"",
        pong[:1],
        pong[:-1],
        pong + pong,
        client_frame(size, masked=False, opcode=0x8A),
        client_frame(size, masked=True, opcode=0x89),
        client_frame(size, masked=True, opcode=0x0A),
        client_frame(size + 126, masked=True, opcode=0x8A),
    ]
    assert not any(check.is_pong(other) for other in others)
    assert not check.refuses(pong[:-1])
    assert not check.is_pong(pong)  # it is a payload's rest that looks like one


@pytest.mark.parametrize("opcode", [0xC0, 0x40, 0xC8, 0xC9, 0xCA])
def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(opcode: int) -> None:
    """Neither a later fragment nor a control frame does."""
    check = FrameCheck()
    assert not check.refuses(client_frame(5, masked=True, opcode=0x41))
    assert check.refuses(client_frame(5, masked=True, opcode=opcode))


@given(sizes=frame_sizes, size=st.sampled_from([0, 1, 125, 126, 70000]), at=cuts)
def test_an_unmasked_frame_is_found_however_it_is_cut(
    sizes: list[int], size: int, at: list[int]
) -> None:
    """Masked frames pass, and the first unmasked one is found with its second byte."""
    check = FrameCheck()
    before = b"".join(client_frame(n, masked=True) for n in sizes)
    assert not any(check.refuses(piece) for piece in pieces(before, at))
    unmasked = client_frame(size, masked=False)
    assert not check.refuses(unmasked[:1])
    assert check.refuses(unmasked[1:2])


def test_an_unmasked_frame_behind_others_in_one_piece_is_found() -> None:
    """One read may bring several frames."""
    data = client_frame(3, masked=True) + client_frame(300, masked=True)
    assert FrameCheck().refuses(data + client_frame(3, masked=False))


def test_a_huge_claimed_length_is_only_a_length() -> None:
    """2^63 bytes to skip cost nothing."""
    check = FrameCheck()
    assert not check.refuses(b"\x81\xff" + (2**63).to_bytes(8, "big") + b"\x00" * 4)
    assert not check.refuses(b"\x01\x00" * 1000)


def test_every_byte_alone() -> None:
    """The slowest sender possible."""
    check = FrameCheck()
    data = client_frame(70000, masked=True) + client_frame(126, masked=True)
    assert not any(check.refuses(bytes((byte,))) for byte in data)
    assert check.frames == 2
