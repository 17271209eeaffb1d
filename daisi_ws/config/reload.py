"""What of a new configuration applies to a running process, and what waits for a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import msgspec

from daisi_ws.config.keys import Value
from daisi_ws.config.load import assemble, changed
from daisi_ws.config.rules_order import entangled
from daisi_ws.config.schema import FIELDS, Config, value_of


class Settled(msgspec.Struct, frozen=True):
    """What comes of a new configuration.

    :param config: what applies from now on.
    :param hot: keys that this changes.
    :param waits: keys whose new value waits for a restart.
    """

    config: Config
    hot: list[str]
    waits: list[str]


def settle(running: Config, wanted: Config) -> Settled:
    """Take what is hot from `wanted`, and everything else from what runs.

    A hot key whose new value contradicts the running value of one that waits, waits with it.
    """
    old, new = values_of(running), values_of(wanted)
    hot = {name for name in FIELDS if FIELDS[name].key.hot and old[name] != new[name]}
    while True:
        config = restored({name: (new if name in hot else old)[name] for name in FIELDS})
        too_early = entangled(config) & hot
        if not too_early:
            break
        hot -= too_early
    return Settled(config, changed(running, config).hot, differing(config, wanted))


def kept_by(config: Config, supervisor: Mapping[str, Value]) -> Config:
    """`config` with what only a restart of the supervisor changes.

    :param supervisor: the values that it runs with, by dotted key; keys of other kinds are ignored.
    """
    kept = {name: value for name, value in supervisor.items() if FIELDS[name].key.whole}
    return restored({**values_of(config), **kept})


def values_of(config: Config) -> dict[str, Value]:
    """Every value by its dotted key; plain values, which outlive the code that made them."""
    return {name: value_of(config, name) for name in FIELDS}


def restored(values: Mapping[str, Value]) -> Config:
    """The configuration that these values were taken from; no rule is asked again.

    A key that is missing has its default: the values may come from other code than this.
    """
    return cast(
        "Config",
        assemble({name: values.get(name, field.default) for name, field in FIELDS.items()}),
    )


def differing(one: Config, other: Config) -> list[str]:
    """The keys whose values differ, in the order of the schema."""
    return [name for name in FIELDS if value_of(one, name) != value_of(other, name)]
