"""Configuration of resume: how much a client that comes back may be given of what it missed."""

from __future__ import annotations

from typing import Annotated

from daisi_ws.config.keys import Section, count, seconds


class Resume(Section, frozen=True, kw_only=True):
    """What a client that comes back with its position is given from the stream."""

    max_events: Annotated[
        int,
        count(
            "Missed events that one client is given; who missed more is told so.",
            "events",
            0,
            100_000,
        ),
    ] = 1000
    max_bytes: Annotated[
        int,
        count("Bytes of them.", "bytes", 4096, 268_435_456),
    ] = 4_194_304
    max_age_seconds: Annotated[
        float,
        seconds("Age of the oldest of them.", 1, 604_800),
    ] = 300
    pod_max_bytes: Annotated[
        int,
        count(
            "Bytes that one pod keeps in memory, over all its clients, of what it read again. Who "
            "finds them used up waits.",
            "bytes",
            65_536,
            4_294_967_296,
        ),
    ] = 67_108_864
    timeout_seconds: Annotated[
        float,
        seconds("Longest time for reading what a client missed.", 0.1, 60),
    ] = 5
