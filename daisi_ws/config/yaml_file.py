"""The configuration as a YAML file gives it, each value with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from daisi_ws.config.environment import Layer
from daisi_ws.config.keys import Field, Value
from daisi_ws.config.problems import Problem, quoted, without_value
from daisi_ws.config.schema import FIELDS, SECTIONS
from daisi_ws.config.values import RefusedError, check, from_text

_Loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_TAGS = {
    "int": {"tag:yaml.org,2002:int"},
    "float": {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"},
    "bool": {"tag:yaml.org,2002:bool"},
    "bool or null": {"tag:yaml.org,2002:bool"},
}
_NULL = "tag:yaml.org,2002:null"
_MOST_DEPTH = 16
"""Levels of lists and mappings; the configuration has four."""


def read_file(path: Path) -> Layer:
    """Everything a configuration file says, and everything that is wrong with it."""
    reader = _Reader(str(path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except OSError as error:
        reader.refuse_file(str(path), f"cannot be read: {error.strerror}", "a readable YAML file")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        reader.refuse_file(f"{path}:{line}", "is not UTF-8", "a YAML file in UTF-8")
    except yaml.MarkedYAMLError as error:
        reader.refuse_file(_position(path, error.problem_mark), *_in_words(error))
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        reader.refuse_file(f"{path}:{line}", "holds a control character", "YAML text")
    else:
        if root is not None:
            reader.section("", root)
    return reader.layer


class _Reader:
    """Walks the nodes of one document beside the schema."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.layer = Layer()

    def refuse_file(self, origin: str, wrong: str, right: str) -> None:
        """Note that the file as a whole cannot be used."""
        self.layer.problems.append(Problem("configuration file", origin, wrong, right))
        self.layer.unusable = True

    def section(self, name: str, node: yaml.Node) -> None:
        """Take the keys of a section; ``name`` is empty for the whole file."""
        if node.tag == _NULL:
            return
        if not isinstance(node, yaml.MappingNode):
            wrong = "holds a value where keys are expected"
            right = "keys with values: " + ", ".join(_leaves(name))
            self.layer.problems.append(
                Problem(name or "the file", self._origin(node), wrong, right)
            )
            return
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if key in lines:
                wrong = f"appears again (first in line {lines[key]})"
                self._report(f"{name}.{key}".lstrip("."), key_node, wrong, "each key once")
                continue
            lines[key] = key_node.start_mark.line + 1
            self._entry(name, key, key_node, value_node)

    def _entry(self, section: str, key: str, key_node: yaml.Node, value: yaml.Node) -> None:
        name = f"{section}.{key}".lstrip(".")
        if name in SECTIONS:
            self.section(name, value)
        elif (field := _field(section, key)) is not None:
            self._value(field, value, self._origin(key_node))
        else:
            # Where a colon was forgotten, the value would stand behind the first blank.
            word = name.split(maxsplit=1)[0] if name.strip() else "(empty)"
            self._report(_without_secret(word), key_node, "no such key", _nearest(section, key))

    def _value(self, field: Field, node: yaml.Node, origin: str) -> None:
        try:
            if field.required and node.tag == _NULL:
                return
            self.layer.put(field, _from_node(field, node), origin)
        except RefusedError as refused:
            self.layer.refuse(field, origin, str(refused))

    def _report(self, name: str, node: yaml.Node, wrong: str, right: str) -> None:
        self.layer.problems.append(Problem(quoted(name)[1:-1], self._origin(node), wrong, right))

    def _origin(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"


def _from_node(field: Field, node: yaml.Node) -> Value:
    if node.tag == _NULL:
        if field.kind == "bool or null":
            return None
        raise RefusedError("has no value")
    if field.kind == "list":
        return check(field, tuple(_items(node)))
    if not isinstance(node, yaml.ScalarNode):
        raise RefusedError("holds a list or keys where one value is expected")
    wanted = _TAGS.get(field.kind)
    if wanted is not None and node.tag not in wanted:
        raise RefusedError(f"{quoted(node.value)} is not {_wanted(field)}")
    return from_text(field, node.value)


def _wanted(field: Field) -> str:
    words = {"int": "a whole number", "float": "a number"}
    return words.get(field.kind, "true or false") + " (without quotes)"


def _items(node: yaml.Node) -> Iterator[str]:
    if not isinstance(node, yaml.SequenceNode):
        raise RefusedError("is not a list")
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode) or item.tag == _NULL:
            raise RefusedError("holds something that is not text")
        yield item.value


def _check_depth(text: str) -> None:
    """Read the text without making anything of it: libyaml composes by recursion, without a bound.

    :raises yaml.MarkedYAMLError: it is no YAML, or nested too deeply.
    """
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MOST_DEPTH:
            raise yaml.MarkedYAMLError(None, None, "is nested too deeply", event.start_mark)


def _field(section: str, key: str) -> Field | None:
    field = FIELDS.get(f"{section}.{key}")
    if field is not None:
        return field
    return next((f for f in FIELDS.values() if f.section == section and key in f.key.aliases), None)


def _without_secret(key: str) -> str:
    """Return a key without the value that stands right behind the name of a secret in it."""
    section, dot, leaf = key.rpartition(".")
    secrets = [field.leaf for field in FIELDS.values() if field.key.secret]
    return section + dot + without_value(leaf, secrets)


def _leaves(section: str) -> list[str]:
    names = [*FIELDS, *SECTIONS]
    return [
        name.rpartition(".")[2]
        for name in dict.fromkeys(names)
        if name.rpartition(".")[0] == section
    ]


def _nearest(section: str, key: str) -> str:
    elsewhere = [name for name in FIELDS if name.rpartition(".")[2] == key]
    near = elsewhere or get_close_matches(key, _leaves(section), n=1)
    return f"did you mean {near[0]}?" if near else "one of: " + ", ".join(_leaves(section))


def _position(path: Path, mark: yaml.Mark | None) -> str:
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _in_words(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    # A secret that begins with * or ! is read as an alias or a tag and would be named here.
    problem = re.sub(r"'[^']{2,}'", "'...'", error.problem or "is not YAML")
    if "alias" in problem or "tag" in problem or "cannot start any token" in problem:
        return problem, "text with special characters stands in quotes"
    if "deeply" in problem:
        return problem, f"at most {_MOST_DEPTH} levels"
    return problem, "YAML: two blanks deeper below each section, a blank after each colon"
