"""Inputs that are nearly right: seeds, spoiled in the ways that parsers stumble over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

LARGEST = 20_000

_INTERESTING = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\r\n", b"\n", b" ", b"\t", b"'", b'"', b"\\", b"\\u0000",
    b"\\ud800", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"*", b">", b".", b":", b"#", b"{", b"}", b"[", b"]", b",", b"%00", b"%2e", b"%s", b"$", b"..",
    b"0", b"-1", b"1e999", b"NaN", b"9223372036854775807", b"9223372036854775808",
    b"18446744073709551616", b"null", b"true", b"[]", b"{}", b'""', b"1.0", b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff\xff\xff\xff\xff",
)  # fmt: skip

Change = Callable[[bytearray], bytearray]


class Mutator:
    """An endless source of inputs.

    :param seeds: right inputs; `words`: what is worth putting in.
    """

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], seed: int | str) -> None:
        self._chance = random.Random(seed)
        self._seeds = list(seeds)
        self._words = [*words, *_INTERESTING]
        self._changes: list[Change] = [
            self._flip, self._set, self._insert, self._insert, self._replace, self._delete,
            self._repeat, self._splice, self._truncate, self._nest, self._random,
        ]  # fmt: skip

    def inputs(self, count: int) -> Iterator[bytes]:
        """Return the seeds, then so many inputs more."""
        yield from self._seeds
        for _ in range(count):
            data = bytearray(self._chance.choice(self._seeds))
            for _ in range(self._chance.choice((1, 1, 1, 2, 2, 3, 5, 8))):
                data = self._chance.choice(self._changes)(data)
            yield bytes(data[:LARGEST])

    def _at(self, data: bytearray) -> int:
        return self._chance.randrange(len(data) + 1)

    def _span(self, data: bytearray) -> tuple[int, int]:
        start = self._at(data)
        return start, min(len(data), start + self._chance.choice((1, 1, 2, 4, 8, 32)))

    def _flip(self, data: bytearray) -> bytearray:
        if data:
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        return data

    def _set(self, data: bytearray) -> bytearray:
        if data:
            data[self._chance.randrange(len(data))] = self._chance.randrange(256)
        return data

    def _insert(self, data: bytearray) -> bytearray:
        at = self._at(data)
        data[at:at] = self._chance.choice(self._words)
        return data

    def _replace(self, data: bytearray) -> bytearray:
        start, end = self._span(data)
        data[start:end] = self._chance.choice(self._words)
        return data

    def _delete(self, data: bytearray) -> bytearray:
        start, end = self._span(data)
        del data[start:end]
        return data

    def _repeat(self, data: bytearray) -> bytearray:
        start, end = self._span(data)
        data[start:start] = data[start:end] * self._chance.choice((1, 2, 10, 300))
        return data

    def _splice(self, data: bytearray) -> bytearray:
        other = self._chance.choice(self._seeds)
        return data[: self._at(data)] + other[self._at(bytearray(other)) :]

    def _truncate(self, data: bytearray) -> bytearray:
        return data[: self._at(data)]

    def _nest(self, data: bytearray) -> bytearray:
        at = self._at(data)
        depth = self._chance.choice((1, 3, 100, 2000))
        opening = self._chance.choice((b"[", b'{"a":', b"\x91", b"\x81\xa1a"))
        data[at:at] = opening * depth
        return data

    def _random(self, data: bytearray) -> bytearray:
        start, end = self._span(data)
        data[start:end] = self._chance.randbytes(self._chance.choice((1, 4, 16)))
        return data
