"""Events that somebody hands to `publish`: as an argument, in a file, on standard input."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from daisi_ws.domain import subjects
from daisi_ws.domain.event import NotAnEvent, event_text

_CHUNK = 64 * 1024

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BadEvent(Exception):
    """Something given is no event; the text names the place, the field and what would be right."""


def complete(subject: str, data: bytes, place: str) -> bytes:
    """Check an event, and add the ids it leaves out; one that has them all stays as it is.

    :param place: where it comes from, for the message.
    :raises BadEvent: the gateway would not take it as an event.
    """
    address = subjects.parse(subject)
    if address is None:
        raise BadEvent(f"{subject} is no event's subject")
    data = _with_ids(address, data)
    try:
        event_text(address, data, None)
    except NotAnEvent as problem:
        raise BadEvent(f"{place}: {problem.problem}") from None
    return data


async def lines_of(path: Path | None) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers, blank ones left out, as they come.

    :param path: None for standard input.
    :raises OSError: it cannot be read.
    """
    # The opening of a named pipe that nobody writes to would wait where no signal ends it.
    descriptor = os.dup(0) if path is None else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        number, rest = 0, b""
        while chunk := await _read(descriptor):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                number += 1
                if line.strip():
                    yield number, line
        if rest.strip():
            yield number + 1, rest
    finally:
        os.close(descriptor)


def _with_ids(address: subjects.Address, data: bytes) -> bytes:
    try:
        fields = _fields.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data  # the check says what is wrong with it
    ids = {
        "event_id": f"{secrets.token_hex(8)}:{address.event_type}:given",
        "company_id": address.company_id,
        "agent_id": address.agent_id,
        "chat_id": address.chat_id,
    }
    missing = {name: value for name, value in ids.items() if value and name not in fields}
    return msgspec.json.encode({**missing, **fields}) if missing else data


async def _read(descriptor: int) -> bytes:
    """Read what is there; waits without a thread, which Ctrl-C could not interrupt."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except (OSError, RuntimeError):
        return os.read(descriptor, _CHUNK)  # a file: never makes wait
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, _CHUNK)
