"""The configuration as environment variables and flags give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from daisi_ws.config import FIELDS
from daisi_ws.config.environment import read_environment, read_flags


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DAISI_WS_SERVER_HTTP_PORT", "81", 81),
        ("DAISI_WS_SERVER_HTTP_PORT", " 81 ", 81),
        ("DAISI_WS_APP_PONG_WAIT_SECONDS", "2.5", 2.5),
        ("DAISI_WS_SERVER_GRPC_TLS_ENABLED", "Yes", True),
        ("DAISI_WS_SERVER_GRPC_TLS_ENABLED", "0", False),
        ("DAISI_WS_NATS_CREATE_STREAM", "null", None),
        (
            "DAISI_WS_SERVER_ALLOWED_ORIGINS",
            "https://a.b, https://c.d,",
            ("https://a.b", "https://c.d"),
        ),
        ("DAISI_WS_ADAPTIVE_TTL_SESSION_LOCK_MIN_SECONDS", "12", 12.0),
        ("DAISI_WS_ADAPTIVE_TTL_SESSION_LOCK_MIN", "12", 12.0),
        ("DAISI_WS_REDIS_PASSWORD", " a b ", " a b "),
    ],
)
def test_variables_are_read_by_the_type_of_their_key(
    variable: str, text: str, value: object
) -> None:
    """Numbers, truth, lists and text are read from the variable's text."""
    layer = read_environment({variable: text})
    assert layer.problems == []
    assert list(layer.values.values()) == [(value, f"environment {variable}")]


def test_every_key_has_a_variable_of_its_own() -> None:
    """No two keys or aliases share the name of a variable."""
    names = [
        f"DAISI_WS_{name.upper().replace('.', '_')}"
        for field in FIELDS.values()
        for name in (field.name, *(f"{field.section}.{alias}" for alias in field.key.aliases))
    ]
    assert len(names) == len(set(names))


def test_a_secret_behind_its_variable_is_not_shown() -> None:
    """Where the sign between the two was forgotten, the value is a part of the name."""
    name = "DAISI_WS_AUTH_TOKEN_AES_KEY"
    (problem,) = read_environment({f"{name}{'5ec2e7' * 10}abcd": "30"}).problems
    assert problem.key == f"{name}..."
    assert "5ec2e7" not in str(problem)
    (problem,) = read_environment({f"{name}_PREV": "x"}).problems
    assert problem.key == f"{name}_PREV"


@pytest.mark.parametrize("between", ["", "@", "-", ".", "_"])
def test_a_secret_behind_a_misspelt_variable_is_not_shown(between: str) -> None:
    """A name is shown as far as it can be one."""
    name = "DAISI_WS_CUTH_TOKEN_AES_KEY"
    (problem,) = read_environment({f"{name}{between}{'5ec2e7' * 5}@x": "30"}).problems
    assert problem.key in (f"{name}...", f"{name}_...", "DAISI_WS_CUTH_TOKEN_AES_...")
    assert "5ec2e7" not in str(problem)


def test_an_unknown_variable_comes_with_a_suggestion() -> None:
    """A typo in the environment is found, with the name that was meant."""
    layer = read_environment({"DAISI_WS_SERVER_HTTP_PROT": "1", "DAISI_WS_ZZZ": "1"})
    assert [(problem.key, problem.right) for problem in layer.problems] == [
        ("DAISI_WS_SERVER_HTTP_PROT", "did you mean DAISI_WS_SERVER_HTTP_PORT?"),
        ("DAISI_WS_ZZZ", "`daisi-ws config doc` lists all names"),
    ]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DAISI_WS_CONFIG", "x.yaml"),
        ("DAISI_WS_INTERNAL_SLOT", "1"),
        ("DAISI_WS_SERVER_HTTP_PORT", ""),
        ("DAISI_WS_SERVICE_HOST", "10.0.0.1"),
        ("DAISI_WS_SERVICE_PORT", "8080"),
        ("DAISI_WS_SERVICE_PORT_HTTP", "8080"),
        ("DAISI_WS_PORT", "tcp://10.0.0.1:8080"),
        ("DAISI_WS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("DAISI_WS_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("DAISI_WS_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("OTHER_VARIABLE", "1"),
    ],
)
def test_variables_of_others_are_passed_over(variable: str, text: str) -> None:
    """Our own internal ones, empty ones, and those Kubernetes makes for Services are no typos."""
    layer = read_environment({variable: text})
    assert (layer.values, layer.problems) == ({}, [])


@pytest.mark.parametrize(
    ("variable", "text", "wrong"),
    [
        ("DAISI_WS_SERVER_HTTP_PORT", "eighty", "'eighty' is not a whole number"),
        ("DAISI_WS_SERVER_HTTP_PORT", "tcp://10.0.0.1:80", "is not a whole number"),
        ("DAISI_WS_SERVER_HTTP_PORT", "9" * 5000, "is not a whole number"),
        ("DAISI_WS_SERVER_HTTP_PORT", "\u0661", "is not a whole number"),
        ("DAISI_WS_APP_PONG_WAIT_SECONDS", "nan", "'nan' is not a number"),
        ("DAISI_WS_APP_PONG_WAIT_SECONDS", "1e9", "1000000000 is more than 7200"),
        ("DAISI_WS_SERVER_ENABLE_REFLECTION", "maybe", "'maybe' is not true or false"),
        ("DAISI_WS_AUTH_SECRET_TOKEN", "hunter2", "has 7 characters (not shown)"),
        ("DAISI_WS_AUTH_TOKEN_AES_KEY", "0g" * 32, "has 64 characters (not shown)"),
    ],
)
def test_a_variable_that_does_not_fit_is_named_with_its_reason(
    variable: str, text: str, wrong: str
) -> None:
    """The problem names the variable, the reason, and what is right; it is short."""
    layer = read_environment({variable: text})
    (problem,) = layer.problems
    assert problem.origin == f"environment {variable}"
    assert wrong in problem.wrong
    assert problem.right == FIELDS[problem.key].right
    assert len(problem.wrong) < 120


def test_a_variable_and_its_short_spelling_contradict_each_other() -> None:
    """The same key by two names is a problem that names both."""
    name = "DAISI_WS_ADAPTIVE_TTL_MESSAGE_ROUTE_MAX"
    layer = read_environment({name: "900", f"{name}_SECONDS": "901"})
    (problem,) = layer.problems
    assert name in problem.wrong
    assert problem.origin == f"environment {name}_SECONDS"


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("server.http_port", 80.5),
        ("server.http_port", True),
        ("server.http_host", 5),
        ("server.enable_reflection", 1),
        ("server.allowed_origins", 5),
        ("app.pong_wait_seconds", True),
        ("app.pong_wait_seconds", float("nan")),
        ("app.pong_wait_seconds", float("inf")),
    ],
)
def test_flags_of_the_wrong_type_are_refused(key: str, given: object) -> None:
    """A value that a command passes is checked like any other."""
    layer = read_flags({key: given})
    assert [problem.key for problem in layer.problems] == [key]


def test_flags_may_be_text_or_values() -> None:
    """Text is read as in the environment, values are taken as they are, None is not given."""
    flags = {
        "server.http_port": "81",
        "server.workers": 2,
        "server.allowed_origins": ["*"],
        "app.pong_wait_seconds": 61,
        "nats.create_stream": True,
        "nats.url": None,
    }
    layer = read_flags(flags)
    assert layer.problems == []
    assert {key: value for key, (value, _) in layer.values.items()} == {
        "server.http_port": 81,
        "server.workers": 2,
        "server.allowed_origins": ("*",),
        "app.pong_wait_seconds": 61.0,
        "nats.create_stream": True,
    }


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    """Without the line break at its end; no other key has such a variable."""
    file = tmp_path / "key"
    file.write_text("user-api-key-0123456789\n")
    layer = read_environment({"DAISI_WS_AUTH_SECRET_TOKEN_FILE": str(file)})
    assert layer.problems == []
    assert layer.values == {
        "auth.secret_token": (
            "user-api-key-0123456789",
            "environment DAISI_WS_AUTH_SECRET_TOKEN_FILE",
        )
    }
    wrong = read_environment({"DAISI_WS_REDIS_ADDRESS_FILE": str(file)})
    assert [problem.wrong for problem in wrong.problems] == ["no such variable"]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "cannot be read"),
        (b"\xff" * 20, "is not UTF-8"),
        (b"secret but with blanks", "characters (not shown)"),
        (b"", "is empty"),
    ],
)
def test_a_file_that_holds_no_secret_is_a_problem_of_its_key(
    tmp_path: Path, content: bytes | None, wrong: str
) -> None:
    """It names key, variable and file, and shows nothing of the content."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    (problem,) = read_environment({"DAISI_WS_AUTH_SECRET_TOKEN_FILE": str(file)}).problems
    assert problem.key == "auth.secret_token"
    assert problem.origin == "environment DAISI_WS_AUTH_SECRET_TOKEN_FILE"
    assert wrong in problem.wrong
    assert "secret but" not in str(problem)


def test_a_secret_is_given_once(tmp_path: Path) -> None:
    """By its variable or by its file."""
    file = tmp_path / "key"
    file.write_text("user-api-key-0123456789")
    environ = {
        "DAISI_WS_AUTH_SECRET_TOKEN_FILE": str(file),
        "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-0123456789",
    }
    (problem,) = read_environment(environ).problems
    assert "is given twice" in problem.wrong
