"""``daisi-ws config``: check, show, doc."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from daisi_ws.cli.config_cmd import config_group
from daisi_ws.config import FIELDS
from daisi_ws.config.doc import markdown_reference, yaml_reference

SECRETS = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-0123456789",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "0a" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-0123456789",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "0b" * 32,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, so that no conf/config.yaml is found by chance."""
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, **environ: str) -> Result:
    """Run ``daisi-ws config ...`` with these variables only."""
    return CliRunner(env=environ).invoke(config_group, arguments)


def test_check_says_ok_and_what_it_read(tmp_path: Path) -> None:
    """A good configuration ends with exit code 0 and a summary."""
    file = tmp_path / "c.yaml"
    file.write_text("log: {level: debug}")
    result = run("check", "--config", str(file), **SECRETS)
    assert result.exit_code == 0
    assert (
        result.stdout
        == f"ok: file {file}, 5 of {len(FIELDS)} keys set, the others at their default\n"
    )


def test_check_reports_every_problem_with_exit_code_2(tmp_path: Path) -> None:
    """All problems go to standard error at once, with the hint how to make a secret."""
    file = tmp_path / "c.yaml"
    file.write_text("log: {level: loud}\nserver: {http_prot: 1}")
    result = run("check", "--config", str(file))
    assert result.exit_code == 2
    assert result.stdout == ""
    for part in ("log.level", f"{file}:1", "http_port?", "auth.token_aes_key", "token_hex(32)"):
        assert part in result.stderr


def test_check_refuses_a_missing_file() -> None:
    """A file that was asked for and is not there is named."""
    result = run("check", "--config", "nope.yaml", **SECRETS)
    assert result.exit_code == 2
    assert "nope.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_warns_of_a_previous_key_that_is_over() -> None:
    """The configuration can be used: code 0, and a word on standard error."""
    environ = {
        **SECRETS,
        "DAISI_WS_AUTH_SECRET_TOKEN_PREVIOUS": "the-key-before-this-one",
        "DAISI_WS_AUTH_SECRET_TOKEN_PREVIOUS_UNTIL": "2020-01-01T00:00:00Z",
    }
    result = run("check", **environ)
    assert result.exit_code == 0
    assert result.stdout.startswith("ok: ")
    assert result.stderr.startswith("warning: auth.secret_token_previous_until")
    assert "is over" in result.stderr
    assert "the-key-before" not in result.output


def test_show_says_value_and_origin_of_every_key() -> None:
    """Each key is a line with its value and where that comes from."""
    result = run("show", **SECRETS, DAISI_WS_SERVER_WORKERS="3")
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert set(lines) == set(FIELDS)
    assert lines["server.workers"].split()[1:] == ["3", "environment", "DAISI_WS_SERVER_WORKERS"]
    assert lines["server.http_port"].split()[1:] == ["8080", "default"]
    assert lines["auth.secret_token"].split()[1:3] == ["********", "(set)"]
    assert "not set" in lines["redis.password"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_show_hides_secrets(form: list[str]) -> None:
    """No secret and no login of a URL is shown."""
    result = run("show", *form, **SECRETS, DAISI_WS_NATS_URL="nats://u:pw123@h:4222")
    assert result.exit_code == 0
    assert not any(value in result.output for value in (*SECRETS.values(), "pw123"))


def test_show_json_is_one_object_with_types() -> None:
    """Machines get values as JSON, and whether a secret is set."""
    shown = json.loads(run("show", "--json", **SECRETS).stdout)
    assert shown["server.http_port"] == {
        "value": 8080,
        "origin": "default",
        "reload": "full restart",
    }
    assert shown["nats.create_stream"]["value"] is None
    assert shown["server.allowed_origins"]["value"] == []
    assert shown["auth.secret_token"]["value"] == "********"
    assert shown["auth.secret_token"]["set"] is True
    assert shown["redis.password"]["set"] is False


def test_show_needs_a_good_configuration() -> None:
    """With problems there is nothing in effect to show."""
    result = run("show")
    assert result.exit_code == 2
    assert result.stdout == ""


def test_doc_explains_every_key() -> None:
    """Without a name all keys are explained with their variables; nothing is loaded."""
    result = run("doc")
    assert result.exit_code == 0
    for field in FIELDS.values():
        assert f"{field.name}  {field.environment}\n" in result.stdout


@pytest.mark.parametrize(
    "name", ["adaptive_ttl.session_lock.min", "DAISI_WS_ADAPTIVE_TTL_SESSION_LOCK_MIN_SECONDS"]
)
def test_doc_knows_a_key_by_every_name_it_is_set_by(name: str) -> None:
    """A short spelling and the variable lead to the key."""
    result = run("doc", name)
    assert result.exit_code == 0
    assert result.stdout.startswith("adaptive_ttl.session_lock.min_seconds  DAISI_WS_")


def test_doc_explains_one_section_or_key() -> None:
    """A name narrows it down; a key is told with type, range, default and reload."""
    section = run("doc", "log").stdout
    assert "log.level" in section
    assert "server." not in section
    key = run("doc", "server.http_port").stdout
    for part in (
        "a whole number from 0 to 65535",
        "Default: 8080",
        "restart",
        "HTTP and WebSocket",
    ):
        assert part in key


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("server.http_prot", "did you mean server.http_port?"),
        ("pong_wait_seconds", "did you mean app.pong_wait_seconds?"),
        ("zzzz", "sections are: server"),
    ],
)
def test_doc_of_an_unknown_name_suggests_one(name: str, hint: str) -> None:
    """A typo is a usage error with the name that was meant."""
    result = run("doc", name)
    assert result.exit_code == 2
    assert hint in " ".join(result.stderr.split())


def test_doc_writes_the_references() -> None:
    """--yaml and --markdown are the shipped files; Markdown can be narrowed down too."""
    assert run("doc", "--yaml").stdout == yaml_reference()
    assert run("doc", "--markdown").stdout == markdown_reference()
    assert run("doc", "--markdown", "log").stdout.startswith("### log\n")
    assert run("doc", "--yaml", "log").exit_code == 2


def test_names_are_completed_by_the_shell() -> None:
    """Section and key names complete after ``config doc``."""
    complete = ShellComplete(config_group, {}, "config", "_CONFIG_COMPLETE")
    found = {item.value for item in complete.get_completions(["doc"], "server.grpc_")}
    assert {"server.grpc_port", "server.grpc_tls", "server.grpc_tls.enabled"} <= found
    assert all(name.startswith("server.grpc_") for name in found)


@pytest.mark.parametrize("command", [[], ["check"], ["show"], ["doc"]])
def test_help_has_an_example(command: list[str]) -> None:
    """Every help text shows how the command is used; the commands state their exit codes."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "daisi-ws config" in result.stdout
    assert ("Exit codes" in result.stdout) == bool(command)
