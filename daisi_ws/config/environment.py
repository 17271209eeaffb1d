"""The configuration as environment variables and flags give it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import msgspec

from daisi_ws.config.keys import ENVIRONMENT_PREFIX, Field, Value, environment_name
from daisi_ws.config.problems import Problem, quoted, without_value
from daisi_ws.config.schema import FIELDS
from daisi_ws.config.values import RefusedError, from_python, from_text

FILE_VARIABLE = "DAISI_WS_CONFIG"
_INTERNAL = "DAISI_WS_INTERNAL_"
_FILE_SUFFIX = "_FILE"
_LONGEST_SECRET = 64 * 1024

# Kubernetes puts variables of this shape into every pod of a namespace that has a Service whose
# name begins with daisi-ws: https://kubernetes.io/docs/concepts/services-networking/service/
_KUBERNETES_NAME = re.compile(
    r".*_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_.*)?"
)
_KUBERNETES_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


class Layer(msgspec.Struct):
    """What one source says: values and their origins by key, and what is wrong with it.

    An ``unusable`` source could not be read at all: what it lacks is not known.
    """

    values: dict[str, tuple[Value, str]] = msgspec.field(default_factory=dict)
    problems: list[Problem] = msgspec.field(default_factory=list)
    unusable: bool = False

    def put(self, field: Field, value: Value, origin: str) -> None:
        """Take a value; a second one for the same key is a problem."""
        if field.name in self.values:
            earlier = self.values[field.name][1]
            self.problems.append(
                Problem(field.name, origin, f"is given twice, also by {earlier}", "one of the two")
            )
        else:
            self.values[field.name] = (value, origin)

    def refuse(self, field: Field, origin: str, wrong: str) -> None:
        """Note that a key's value cannot be used."""
        self.problems.append(Problem(field.name, origin, wrong, field.right))


def read_environment(environ: Mapping[str, str]) -> Layer:
    """Every ``DAISI_WS_...`` variable. One with an empty value counts as not set.

    The file that a ``DAISI_WS_<SECTION>_<KEY>_FILE`` of a secret names is read here.
    """
    layer = Layer()
    for secret, name, path in _secret_files(environ):
        _read_secret(layer, secret, f"environment {name}", path)
    known = _by_variable()
    secrets = [name for name, field in known.items() if field.key.secret]
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or not environ[name]:
            continue
        origin = f"environment {name}"
        field = known.get(name)
        if field is None and _secret_of(name, known) is not None:
            continue
        if field is not None:
            try:
                layer.put(field, from_text(field, environ[name]), origin)
            except RefusedError as refused:
                layer.refuse(field, origin, str(refused))
        elif not _someone_elses(name, environ[name]):
            layer.problems.append(
                Problem(
                    quoted(without_value(name, secrets))[1:-1],
                    "environment",
                    "no such variable",
                    _nearest(name, known),
                )
            )
    return layer


def secret_files(environ: Mapping[str, str]) -> list[Path]:
    """The files of secrets that variables name."""
    return [path for _, _, path in _secret_files(environ)]


def read_flags(flags: Mapping[str, object]) -> Layer:
    """Values by dotted key, as a command line gives them. None counts as not given.

    :raises KeyError: there is no such key.
    """
    layer = Layer()
    for name, given in flags.items():
        field = FIELDS[name]
        if given is None:
            continue
        origin = f"flag --{field.leaf.replace('_', '-')}"
        try:
            layer.put(field, from_python(field, given), origin)
        except RefusedError as refused:
            layer.refuse(field, origin, str(refused))
    return layer


def _secret_files(environ: Mapping[str, str]) -> Iterator[tuple[Field, str, Path]]:
    known = _by_variable()
    for name in sorted(environ):
        if environ[name] and (field := _secret_of(name, known)) is not None:
            yield field, name, Path(environ[name])


def _secret_of(name: str, known: Mapping[str, Field]) -> Field | None:
    field = known.get(name.removesuffix(_FILE_SUFFIX)) if name not in known else None
    return field if field is not None and field.key.secret else None


def _read_secret(layer: Layer, field: Field, origin: str, path: Path) -> None:
    right = f"a readable file that holds nothing else: {field.right}"
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_SECRET).decode()
    except OSError as error:
        wrong = f"{quoted(str(path), 200)} cannot be read: {error.strerror}"
        layer.problems.append(Problem(field.name, origin, wrong, right))
    except UnicodeDecodeError:
        wrong = f"{quoted(str(path), 200)} is not UTF-8"
        layer.problems.append(Problem(field.name, origin, wrong, right))
    else:
        try:
            layer.put(field, from_text(field, text.rstrip("\r\n")), origin)
        except RefusedError as refused:
            layer.refuse(field, origin, str(refused))


@cache
def _by_variable() -> Mapping[str, Field]:
    known = {field.environment: field for field in FIELDS.values()}
    for field in FIELDS.values():
        for alias in field.key.aliases:
            known[environment_name(f"{field.section}.{alias}")] = field
    return known


def _someone_elses(name: str, value: str) -> bool:
    if name == FILE_VARIABLE or name.startswith(_INTERNAL):
        return True
    return bool(
        _KUBERNETES_NAME.fullmatch(name)
        or (name.endswith("_PORT") and _KUBERNETES_VALUE.fullmatch(value))
    )


def _nearest(name: str, known: Mapping[str, Field]) -> str:
    # Without the prefix, which all have in common and which would make everything look near.
    bare = {variable.removeprefix(ENVIRONMENT_PREFIX): variable for variable in known}
    near = get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), bare, n=1)
    return f"did you mean {bare[near[0]]}?" if near else "`daisi-ws config doc` lists all names"
