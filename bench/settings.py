"""The parameters of all groups; each is a flag of the command line."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.targets import Layout, Version


class Settings(msgspec.Struct, kw_only=True):
    """What is to be measured, and how often.

    :param versions: of the product, measured in turn; the first is the one that is asked about.
    :param floor: measure the floor, too.
    :param repeat: how often each figure is measured, in turns.
    """

    versions: list[Version]
    floor: bool = True
    repeat: int = 3

    path_rates: list[int]
    path_seconds: float
    path_clients: int
    path_layouts: list[Layout]

    fan_out_points: list[tuple[int, int]]
    fan_out_seconds: float
    fan_out_layouts: list[Layout]
    fan_out_wide: list[tuple[int, int]]

    admins_count: int
    admins_rate: int
    admins_seconds: float
    admins_layouts: list[Layout]

    connect_count: int
    connect_storm: int
    connect_missed: int
    connect_layouts: list[Layout]

    memory_sizes: list[int]
    memory_deflate: bool

    forward_rates: list[int]
    forward_seconds: float
    forward_clients: int

    idle_clients: int
    idle_seconds: float

    parts_seconds: float
    parts_times: int
    parts_users: int

    profile: str = ""
    out: Path
