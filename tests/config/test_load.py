"""From file, environment and flags to one checked configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

import daisi_ws.config
from daisi_ws.config import (
    FIELDS,
    ConfigError,
    Loaded,
    changed,
    load,
    testing_config,
    value_of,
)

SECRETS = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-0123456789",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "0a" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-0123456789",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "0b" * 32,
}
PACKAGE_ROOT = Path(daisi_ws.config.__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, so that no conf/config.yaml is found by chance."""
    monkeypatch.chdir(tmp_path)


def refused(path: Path | None, environ: dict[str, str], **flags: object) -> ConfigError:
    """The error that loading ends with."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ, {name.replace("__", "."): value for name, value in flags.items()})
    return caught.value


def test_defaults_are_those_of_the_reference() -> None:
    """Without file, environment and flags every key but the secrets has its stated default."""
    config = load(None, SECRETS, {}).config
    assert config.server.http_port == 8080
    assert config.nats.stream_name == "wa_stream"
    assert config.nats.consumer_name == "ws_fanout"
    assert config.nats.create_stream is None
    assert config.app.websocket_backpressure_drop_policy == "drop_oldest"
    assert config.adaptive_ttl.session_lock.min_seconds == 15
    assert config.adaptive_ttl.message_route.enabled is True
    derived = ("server.pod_id", "server.workers")
    for name, field in FIELDS.items():
        if not field.required and name not in derived:
            assert value_of(config, name) == field.default, name


def test_later_sources_win_and_origins_say_which(tmp_path: Path) -> None:
    """A flag wins over the environment, the environment over the file, the file over defaults."""
    file = tmp_path / "c.yaml"
    file.write_text("server:\n  http_port: 1001\n  grpc_port: 2001\n  workers: 3\n")
    environ = SECRETS | {
        "DAISI_WS_SERVER_GRPC_PORT": "2002",
        "DAISI_WS_SERVER_WORKERS": "4",
    }
    loaded = load(file, environ, {"server.workers": 5, "server.http_host": None})
    server = loaded.config.server
    assert (server.http_port, server.grpc_port, server.workers) == (1001, 2002, 5)
    assert loaded.origins["server.http_port"] == f"{file}:2"
    assert loaded.origins["server.grpc_port"] == "environment DAISI_WS_SERVER_GRPC_PORT"
    assert loaded.origins["server.workers"] == "flag --workers"
    assert loaded.origins["server.http_host"] == "default"
    assert loaded.path == file
    assert set(loaded.origins) == set(FIELDS)


def test_the_file_is_searched_in_its_usual_places(tmp_path: Path) -> None:
    """DAISI_WS_CONFIG names the file, else conf/config.yaml is read if it is there."""
    assert load(None, SECRETS, {}).path is None
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/config.yaml").write_text("log: {level: error}")
    found = load(None, SECRETS, {})
    assert found.config.log.level == "error"
    assert found.origins["log.level"] == "conf/config.yaml:1"
    (tmp_path / "other.yaml").write_text("log: {level: debug}")
    named = load(None, SECRETS | {"DAISI_WS_CONFIG": "other.yaml"}, {})
    assert named.config.log.level == "debug"


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """Neither --config nor DAISI_WS_CONFIG falls back when the file is not there."""
    missing = tmp_path / "none.yaml"
    for error in (
        refused(missing, SECRETS),
        refused(None, SECRETS | {"DAISI_WS_CONFIG": str(missing)}),
        refused(tmp_path, SECRETS),
    ):
        assert len(error.problems) == 1
        assert "cannot be read" in error.problems[0].wrong
        assert str(tmp_path) in str(error)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, ranges, contradictions and missing secrets share one message."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "server:\n  http_prot: 1\n  workers: many\napp:\n  ping_interval_seconds: 90\n"
        "  route_ttl_seconds: 0\n"
    )
    error = refused(file, {"DAISI_WS_LOG_LEVEL": "loud"}, server__http_port=70_000)
    found = {problem.key: problem for problem in error.problems}
    assert set(found) == {
        "server.http_prot",
        "server.workers",
        "server.http_port",
        "log.level",
        "auth.secret_token",
        "auth.token_aes_key",
        "auth.admin_secret_token",
        "auth.admin_token_aes_key",
        "app.ping_interval_seconds",
        "app.route_ttl_seconds",
    }
    assert found["server.workers"].origin == f"{file}:3"
    assert found["server.http_port"].origin == "flag --http-port"
    assert found["log.level"].origin == "environment DAISI_WS_LOG_LEVEL"
    assert found["server.http_port"].wrong == "70000 is more than 65535"
    assert found["server.http_port"].right == "a whole number from 0 to 65535"
    message = str(error)
    for problem in error.problems:
        assert problem.key in message
        assert problem.origin in message
        assert problem.wrong in message
        assert problem.right in message
    assert "secrets.token_hex(32)" in message


@pytest.mark.parametrize(
    "text",
    [
        "auth: {{secret_token: {s}}}",
        "auth: {{token_aes_key: {s}}}",
        "auth: {{secret_token {s}}}",
        "auth: {{secret_token: [{s}]}}",
        "auth: {{secret_token: {{a: {s}}}}}",
        "auth: {{secret_tokn: {s}}}",
        "auth: {s}",
        "auth: {{secret_token: *{s}}}",
        "auth: {{secret_token: !{s} x}}",
        "auth: {{secret_token: !{s}!{s} x}}",
        "auth: {{secret_token: @{s}}}",
        "auth:\n  secret_token: x\n  token_aes_key {s}",
        "auth: {{secret_token: {s}, secret_token: {s}}}",
        "redis: {{address: 'http://u:{s}@h'}}",
        "nats: {{url: 'http://u:{s}@h'}}",
        "nats: {{url: 'nats://u:{s},{s}@{s}@h'}}",
        "nats: {{password: {s}}}",
        "nats: {{token: {s}, password: {s}}}",
    ],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_no_message_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, loader: type
) -> None:
    """Whatever is wrong with a secret or around it, its value is not in the message.

    PyYAML's two parsers word their errors differently.
    """
    monkeypatch.setattr("daisi_ws.config.yaml_file._Loader", loader)
    secret = "s3cr3t-x"
    file = tmp_path / "c.yaml"
    file.write_text(text.format(s=secret))
    error = refused(file, {"DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": secret})
    assert secret not in str(error)
    assert secret not in repr(error.problems)


def test_a_bad_secret_is_not_also_missing() -> None:
    """A secret that was refused is one problem; one that is set but empty is missing."""
    environ = SECRETS | {"DAISI_WS_AUTH_SECRET_TOKEN": "short", "DAISI_WS_AUTH_TOKEN_AES_KEY": ""}
    error = refused(None, environ)
    assert [(problem.key, problem.wrong) for problem in error.problems] == [
        ("auth.secret_token", "has 5 characters (not shown)"),
        ("auth.token_aes_key", "is required and not set"),
    ]


def test_a_configuration_shows_no_secret() -> None:
    """Neither the repr of the configuration nor that of a section holds a secret."""
    config = load(None, SECRETS | {"DAISI_WS_REDIS_ADDRESS": "redis://u:pw123@h:1/2"}, {}).config
    for text in (repr(config), str(config.auth), repr(config.redis), repr(config.__rich_repr__())):
        assert not any(value in text for value in (*SECRETS.values(), "pw123"))
    assert "http_port=8080" in repr(config.server)


def test_an_unreadable_file_does_not_hide_behind_missing_keys(tmp_path: Path) -> None:
    """When the file is no YAML, what it lacks is not reported: nobody knows what it says."""
    file = tmp_path / "c.yaml"
    file.write_text("server: [\n")
    error = refused(file, {"DAISI_WS_LOG_LEVEL": "loud"})
    assert [problem.key for problem in error.problems] == ["configuration file", "log.level"]


def test_machine_dependent_defaults_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty pod_id becomes the host name within the identifier alphabet, workers 0 the cores."""
    uname = os.uname()
    host = "web-1.example.com"
    fake = os.uname_result((uname[0], host, *uname[2:]))
    monkeypatch.setattr(os, "uname", lambda: fake)
    loaded = load(None, SECRETS, {"server.workers": 0})
    assert loaded.config.server.pod_id == "web-1-example-com"
    assert loaded.config.server.workers == len(os.sched_getaffinity(0))
    assert loaded.origins["server.pod_id"] == "default (host name)"
    assert loaded.origins["server.workers"] == "flag --workers (one for each core)"


def test_configuration_is_frozen() -> None:
    """Nobody changes a configuration that others hold."""
    with pytest.raises(AttributeError):
        testing_config().server.http_port = 1  # type: ignore[misc]


def test_testing_config_takes_overrides_and_checks_them() -> None:
    """Overrides are checked like every other source."""
    assert testing_config(app__session_ttl_seconds=20).app.session_ttl_seconds == 20
    assert testing_config(adaptive_ttl__session_lock__min_seconds=12)
    with pytest.raises(ConfigError):
        testing_config(app__session_ttl_seconds=1)
    with pytest.raises(KeyError):
        testing_config(app__no_such_key=1)


def test_changes_are_told_apart_by_what_a_reload_can_do() -> None:
    """Changed hot keys and changed restart keys are listed apart, in the order of the schema."""
    old = testing_config(server__workers=1)
    new = testing_config(
        server__workers=2,
        log__level="debug",
        app__pong_wait_seconds=61,
        server__allowed_origins=["https://a.example"],
    )
    changes = changed(old, new)
    assert changes.hot == ["server.allowed_origins", "log.level", "app.pong_wait_seconds"]
    assert changes.restart == ["server.workers"]
    same = changed(old, testing_config(server__workers=1))
    assert (same.hot, same.restart) == ([], [])


def test_loading_is_quick_and_imports_no_loop_or_client_library(tmp_path: Path) -> None:
    """The supervisor can load the shipped file before it forks: no asyncio, no client library."""
    shipped = PACKAGE_ROOT / "conf/config.yaml"
    code = (
        "import json, os, pathlib, sys, time\n"
        "from daisi_ws.config import load\n"
        f"path = pathlib.Path({str(shipped)!r})\n"
        "took = []\n"
        "for _ in range(5):\n"
        "    start = time.perf_counter()\n"
        "    load(path, os.environ, {})\n"
        "    took.append(time.perf_counter() - start)\n"
        "print(json.dumps([min(took), sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=SECRETS | {"PYTHONPATH": str(PACKAGE_ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    seconds, modules = msgspec.json.decode(done.stdout, type=tuple[float, list[str]])
    assert seconds < 0.05
    unwanted = {"asyncio", "aiohttp", "redis", "nats", "grpc", "uvloop", "structlog", "ssl"}
    assert not unwanted & set(modules)


def test_the_shipped_file_adds_no_problem_but_the_missing_secrets() -> None:
    """A clone ships a file that is right as it is, and no secrets."""
    error = refused(PACKAGE_ROOT / "conf/config.yaml", {})
    assert [problem.wrong for problem in error.problems] == ["is required and not set"] * 4
    loaded = load(PACKAGE_ROOT / "conf/config.yaml", SECRETS, {})
    assert isinstance(loaded, Loaded)
