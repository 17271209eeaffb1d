"""The configuration as a YAML file gives it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daisi_ws.config import FIELDS, SECTIONS
from daisi_ws.config.environment import Layer
from daisi_ws.config.values import from_python
from daisi_ws.config.yaml_file import read_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to write a configuration into."""
    return tmp_path / "c.yaml"


def read(file: Path, text: str | bytes) -> Layer:
    """What a file with this content says."""
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_file(file)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("server: {http_port: 80}", "server.http_port", 80),
        ("server: {max_header_bytes: 16_384}", "server.max_header_bytes", 16_384),
        ("app: {pong_wait_seconds: 61}", "app.pong_wait_seconds", 61.0),
        ("app: {pong_wait_seconds: 61.5}", "app.pong_wait_seconds", 61.5),
        ("server: {enable_reflection: yes}", "server.enable_reflection", True),
        ("nats: {create_stream: null}", "nats.create_stream", None),
        ("nats: {create_stream: off}", "nats.create_stream", False),
        ("redis: {password: 0123}", "redis.password", "0123"),
        ("redis: {username: no}", "redis.username", "no"),
        ("server: {allowed_origins: ['*', https://a.b]}", "server.allowed_origins", None),
        ("adaptive_ttl: {session_lock: {min: 12}}", "adaptive_ttl.session_lock.min_seconds", 12.0),
        ("\ufeffserver: {http_port: 80}", "server.http_port", 80),
    ],
)
def test_values_are_read_by_the_type_of_their_key(
    file: Path, text: str, key: str, value: object
) -> None:
    """Plain scalars are read as what the key is; text keeps its spelling, aliases are known."""
    layer = read(file, text)
    assert layer.problems == []
    expected = ("*", "https://a.b") if key.endswith("origins") else value
    assert layer.values[key] == (expected, f"{file}:1")
    assert type(layer.values[key][0]) is type(expected)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "server:\n", "server: {}\nlog:\n"])
def test_an_empty_file_or_section_says_nothing(file: Path, text: str) -> None:
    """Sections whose keys are all commented out are fine."""
    layer = read(file, text)
    assert (layer.values, layer.problems) == ({}, [])


@pytest.mark.parametrize(
    ("text", "key", "wrong"),
    [
        ("server: {http_port: '80'}", "server.http_port", "'80' is not a whole number (without"),
        ("server: {http_port: 80.5}", "server.http_port", "'80.5' is not a whole number"),
        ("server: {http_port: yes}", "server.http_port", "'yes' is not a whole number"),
        ("server: {http_port: 8:30}", "server.http_port", "'8:30' is not a whole number"),
        ("server: {http_port: [80]}", "server.http_port", "holds a list or keys"),
        ("server: {http_port: }", "server.http_port", "has no value"),
        ("server: {http_port: -1}", "server.http_port", "-1 is less than 0"),
        ("app: {pong_wait_seconds: .inf}", "app.pong_wait_seconds", "'.inf' is not a number"),
        ("app: {pong_wait_seconds: .nan}", "app.pong_wait_seconds", "'.nan' is not a number"),
        ("server: {enable_reflection: 1}", "server.enable_reflection", "'1' is not true or false"),
        ("server: {enable_reflection: 'true'}", "server.enable_reflection", "is not true or fals"),
        ("server: {allowed_origins: '*'}", "server.allowed_origins", "is not a list"),
        ("server: {allowed_origins: [[a]]}", "server.allowed_origins", "that is not text"),
        ("server: {pod_id: a.b}", "server.pod_id", "'a.b' does not fit"),
        ("log: {level: INFO}", "log.level", "'INFO' is none of the choices"),
        ("log: {level: 'a\\x1b'}", "log.level", "'a\\\\x1b' is none of the choices"),
        ("server: 5", "server", "holds a value where keys are expected"),
        ("server: [http_port]", "server", "holds a value where keys are expected"),
        ("- server", "the file", "holds a value where keys are expected"),
        ("server: {<<: {http_port: 1}}", "server.<<", "no such key"),
        ("? [a]\n: 1", "?", "no such key"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_reason(
    file: Path, text: str, key: str, wrong: str
) -> None:
    """One mistake is one problem with key, line and reason; nothing is taken over."""
    layer = read(file, text)
    assert [problem.key for problem in layer.problems] == [key]
    assert wrong in layer.problems[0].wrong
    assert layer.problems[0].origin == f"{file}:1"
    assert layer.values == {}


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("server: {http_prot: 1}", "did you mean http_port?"),
        ("sever: {http_port: 1}", "did you mean server?"),
        ("server: {pong_wait_seconds: 1}", "did you mean app.pong_wait_seconds?"),
        ("http_port: 1", "did you mean server.http_port?"),
        ("log: {zzz: 1}", "one of: level, format"),
    ],
)
def test_an_unknown_key_comes_with_a_suggestion(file: Path, text: str, suggestion: str) -> None:
    """The nearest key of the section, else the same key elsewhere, else what there is."""
    assert [problem.right for problem in read(file, text).problems] == [suggestion]


@pytest.mark.parametrize("between", ["", ":", " ", "=", "_"])
@pytest.mark.parametrize("section", ["auth", "app"])
def test_a_secret_behind_its_key_is_not_shown(file: Path, between: str, section: str) -> None:
    """Where the colon or the blank was forgotten, the value is a part of the key."""
    (problem,) = read(file, f"{section}: {{'token_aes_key{between}{'5ec2e7' * 10}': }}").problems
    assert problem.key in (f"{section}.token_aes_key...", f"{section}.token_aes_key")
    assert "5ec2e7" not in str(problem)


@pytest.mark.parametrize("text", ["- " * 30_000, "[" * 100_000, "{a: " * 30_000])
def test_a_file_nested_without_end_is_refused(file: Path, text: str) -> None:
    """It would end the process: libyaml composes by recursion."""
    (problem,) = read(file, text).problems
    assert problem.origin.startswith(f"{file}:1")
    assert (problem.wrong, problem.right) == ("is nested too deeply", "at most 16 levels")


def test_a_misspelt_secret_is_named_as_it_is(file: Path) -> None:
    """What is too short to be one may be a wrong name."""
    (problem,) = read(file, "auth: {token_aes_key_prev: x}").problems
    assert problem.key == "auth.token_aes_key_prev"


def test_a_key_given_twice_is_a_problem(file: Path) -> None:
    """A repeated key, and a key beside its alias, are named with both lines."""
    layer = read(file, "log:\n  level: info\n  level: debug\n")
    assert [(p.key, p.origin) for p in layer.problems] == [("log.level", f"{file}:3")]
    assert "line 2" in layer.problems[0].wrong
    layer = read(file, "adaptive_ttl:\n  session_lock:\n    min: 12\n    min_seconds: 13\n")
    assert [p.origin for p in layer.problems] == [f"{file}:4"]
    assert f"{file}:3" in layer.problems[0].wrong


@pytest.mark.parametrize(
    ("text", "position"),
    [
        (b"server:\n  http_port: 1\n bad: 2\n", ":3:2"),
        (b"server:\n\thttp_port: 1\n", ":2:1"),
        (b"a: 1\n---\nb: 2\n", ":2:1"),
        (b"a: 'x\n", ":2:1"),
        (b"a: 1\nb: \xff\n", ":2"),
        (b"a: 1\nb: \x01\n", ":2"),
    ],
)
def test_malformed_yaml_is_named_with_line_and_column(
    file: Path, text: bytes, position: str
) -> None:
    """What the parser cannot read is one problem that says where."""
    layer = read(file, text)
    assert layer.unusable
    assert [problem.origin for problem in layer.problems] == [f"{file}{position}"]


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_NAMES = st.sampled_from([name.rpartition(".")[2] for name in (*FIELDS, *SECTIONS)])
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_TREES)
def test_any_yaml_is_read_or_refused(file: Path, tree: object) -> None:
    """Whatever the file holds, reading ends with values and problems, never with an exception."""
    layer = read(file, yaml.safe_dump(tree, allow_unicode=True))
    assert not layer.unusable
    for name, (value, _) in layer.values.items():
        assert from_python(FIELDS[name], value) == value or value is None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8")))
def test_any_bytes_are_read_or_refused(file: Path, content: bytes) -> None:
    """A file that is no YAML is a problem like any other."""
    layer = read(file, content)
    assert layer.problems or not layer.values
