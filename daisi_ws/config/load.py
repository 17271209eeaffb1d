"""From file, environment and flags to one checked configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import msgspec

from daisi_ws.config.environment import FILE_VARIABLE, Layer, read_environment, read_flags
from daisi_ws.config.keys import Field, Section, Value
from daisi_ws.config.problems import ConfigError, Problem
from daisi_ws.config.rules import contradictions
from daisi_ws.config.schema import FIELDS, SECTIONS, Config, value_of
from daisi_ws.config.yaml_file import read_file

DEFAULT_FILE = Path("conf/config.yaml")


class Loaded(msgspec.Struct, frozen=True):
    """A checked configuration and where it comes from.

    :param config: the configuration.
    :param origins: where each dotted key's value comes from, such as ``conf/config.yaml:12``,
        ``environment DAISI_WS_SERVER_HTTP_PORT``, ``flag --workers`` or ``default``.
    :param path: the file that was read, if any: the one to watch for changes.
    """

    config: Config
    origins: Mapping[str, str]
    path: Path | None


class Changes(msgspec.Struct, frozen=True):
    """Keys that differ: those a reload applies, and those that wait for a restart."""

    hot: list[str]
    restart: list[str]


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Read and check the configuration; a later source wins over an earlier one.

    :param path: the file; when None, ``DAISI_WS_CONFIG`` names it, else ``conf/config.yaml`` in
        the working directory is read if there is one.
    :param environ: environment variables, of which ``DAISI_WS_...`` are read.
    :param flags: values by dotted key that win over file and environment; None for not given.
    :raises ConfigError: with every problem at once.
    """
    if path is None:
        path = file_to_read(environ)
    file = read_file(path) if path is not None else Layer()
    return build([file, read_environment(environ), read_flags(flags)], path)


def build(layers: Iterable[Layer], path: Path | None = None) -> Loaded:
    """One configuration from the layers, the later winning.

    :raises ConfigError: with every problem of every layer, and every contradiction.
    """
    given: dict[str, tuple[Value, str]] = {}
    problems: list[Problem] = []
    unusable = False
    for layer in layers:
        given.update(layer.values)
        problems += layer.problems
        unusable = unusable or layer.unusable
    if unusable:
        raise ConfigError(problems)
    refused = {problem.key for problem in problems}
    values = {name: _settled(field, given) for name, field in FIELDS.items()}
    for name, field in FIELDS.items():
        if field.required and not values[name][0] and name not in refused:
            problems.append(_missing(field))
            refused.add(name)
    config = cast("Config", assemble({name: value for name, (value, _) in values.items()}))
    origins = {name: origin for name, (_, origin) in values.items()}
    problems += contradictions(config, origins, refused)
    if problems:
        order = {name: position for position, name in enumerate(FIELDS)}
        raise ConfigError(sorted(problems, key=lambda p: order.get(p.key, -1)))
    return Loaded(config, MappingProxyType(origins), path)


def changed(old: Config, new: Config) -> Changes:
    """Which keys differ between two configurations, by what a reload can do about it."""
    differ = [f for n, f in FIELDS.items() if value_of(old, n) != value_of(new, n)]
    return Changes(
        hot=[f.name for f in differ if f.key.hot],
        restart=[f.name for f in differ if not f.key.hot],
    )


def file_to_read(environ: Mapping[str, str]) -> Path | None:
    """The file that is read where no command names one, if any."""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE])
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def _settled(field: Field, given: Mapping[str, tuple[Value, str]]) -> tuple[Value, str]:
    value, origin = given.get(field.name, (field.default, "default"))
    if field.name == "server.pod_id" and not value:
        # A host name may hold dots, which are no part of an identifier.
        host = re.sub(r"[^A-Za-z0-9_@=+~-]", "-", os.uname().nodename)[:100]
        return host or "host", "default (host name)"
    if field.name == "server.workers" and not value:
        return len(os.sched_getaffinity(0)), f"{origin} (one for each core)"
    if field.required and value is None:
        return "", "not set"
    return value, origin


def _missing(field: Field) -> Problem:
    wrong = "is required and not set"
    return Problem(field.name, "not set", wrong, f"{field.right}, e.g. in {field.environment}")


def assemble(
    values: Mapping[str, Value], section: type[Section] = Config, prefix: str = ""
) -> Section:
    """The section with these values, by dotted key; a whole ``Config`` by default."""
    parts: dict[str, object] = {}
    for leaf in section.__struct_fields__:
        name = f"{prefix}{leaf}"
        inner = SECTIONS.get(name)
        parts[leaf] = assemble(values, inner, f"{name}.") if inner else values[name]
    return section(**parts)
