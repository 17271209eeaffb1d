"""`daisi-ws token`."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner, Result

from daisi_ws.adapters.token_codec_aesgcm import AesGcmTokenCodec
from daisi_ws.cli import cli
from daisi_ws.domain import token as contents
from tests.cli.command import KEYS

USER_KEY = KEYS["DAISI_WS_AUTH_TOKEN_AES_KEY"]
ADMIN_KEY = KEYS["DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY"]


def token(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(cli, ["token", *arguments], env=dict(KEYS), input=stdin)


def user(*more: str) -> str:
    result = token("user", "--company", "acme", "--agent", "sales", "--user", "ana", *more)
    assert result.exit_code == 0, result.output
    return str(result.output)


def test_a_users_token_is_alone_on_standard_output() -> None:
    """One line, which the users' key opens, with the ids and the end that were asked for."""
    printed = user("--expires", "90s")
    assert printed.count("\n") == 1
    principal = contents.read("user", AesGcmTokenCodec(USER_KEY).decode(printed.strip()))
    assert principal.identity == "acme:sales:ana"
    assert 85 < principal.expires_at - time.time() <= 91


def test_an_admins_token_carries_its_scope() -> None:
    """Subscription and restriction are in the token; `*` means all."""
    options = ("--subscribed-company", "acme", "--subscribed-agent", "*")
    printed = token("admin", "--admin", "root", *options).output.strip()
    principal = contents.read("admin", AesGcmTokenCodec(ADMIN_KEY).decode(printed))
    assert (principal.identity, principal.subject) == ("admin:root", "websocket.acme.*.agents")


def test_what_is_no_text_is_no_token() -> None:
    """Bytes on standard input that are not UTF-8 are told as any other that is no token."""
    result = token("check", "-", stdin=b"\xff\xfe\x81")
    assert result.exit_code == 1
    assert "it is no token" in result.output


def test_a_token_never_begins_with_a_dash() -> None:
    """A command line would take it for an option; one token in 64 would."""
    assert not any(user().startswith("-") for _ in range(300))


@pytest.mark.parametrize("life", ["15m", "1h", "7d", "3600"])
def test_lifetimes_have_units(life: str) -> None:
    """Seconds without unit, or s, m, h, d."""
    seconds = {"15m": 900, "1h": 3600, "7d": 604800, "3600": 3600}[life]
    found = json.loads(token("check", "-", "--json", stdin=user("--expires", life)).output)
    assert seconds - 5 < found["expires_in_seconds"] <= seconds


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--company", "a.b", "--agent", "s", "--user", "u"), "company_id"),
        (("--company", "a", "--agent", "*", "--user", "u"), "agent_id"),
        (("--company", "a", "--agent", "s", "--user", ""), "user_id"),
        (("--company", "a", "--agent", "s", "--user", "u", "--expires", "1y"), "--expires"),
        (("--company", "a", "--agent", "s", "--user", "u", "--expires", "9999999999"), "ten years"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[str, ...], named: str) -> None:
    """What cannot be used ends with code 2 and names the field."""
    result = token("user", *arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_missing_keys_are_all_named_at_once() -> None:
    """Without configuration all four secrets are named, with code 2."""
    result = CliRunner().invoke(cli, ["token", "check", "x"], env=dict.fromkeys(KEYS))
    assert result.exit_code == 2
    assert all(name in result.output for name in KEYS)


def test_a_valid_token_is_explained() -> None:
    """Kind, ids, end and what it sees; exit code 0."""
    result = token("check", user().strip())
    assert result.exit_code == 0
    assert "user token, valid for 1 h" in result.output
    assert "chats and messages of company acme, agent sales" in result.output


def test_an_admins_scope_is_explained() -> None:
    """What an admin sees is said in words, also when restriction and subscription exclude all."""
    scope = ("--subscribed-company", "acme", "--company-restriction", "globex")
    made = token("admin", "--admin", "root", *scope).output
    found = json.loads(token("check", "-", "--json", stdin=made).output)
    assert found["valid"]
    assert found["kind"] == "admin"
    assert found["sees"].startswith("nothing")


def made_by(key: str, **content: str) -> str:
    return AesGcmTokenCodec(key).encode(content)


IDS = {"company_id": "acme", "agent_id": "sales", "user_id": "ana"}
LATER = "2099-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "kind", "problem"),
    [
        ("not a token", None, "no token"),
        ("QUJD", None, "no token"),
        (made_by("0f" * 32, **IDS, expires_at=LATER), None, "another key"),
        (made_by(USER_KEY, **IDS, expires_at="2001-01-01T00:00:00Z"), "user", "expired"),
        (made_by(USER_KEY, **IDS, expires_at="soon"), "user", "expires_at"),
        (made_by(ADMIN_KEY, **IDS, expires_at=LATER), "admin", "admin_id"),
        (made_by(USER_KEY, **{**IDS, "user_id": "a.b"}, expires_at=LATER), "user", "user_id"),
    ],
)
def test_an_invalid_token_is_explained(text: str, kind: str | None, problem: str) -> None:
    """Why not, and whose key opens it if one does; exit code 1."""
    result = token("check", "--json", "-", stdin=f"{text}\n")
    assert result.exit_code == 1
    found = json.loads(result.output)
    assert (found["valid"], found["kind"]) == (False, kind)
    assert problem in found["problem"]
    assert token("check", "-", stdin=text).output.strip()


def test_a_token_that_begins_with_a_dash_can_be_checked() -> None:
    """Tokens of other programs may begin so."""
    result = token("check", "-Xyz")
    assert result.exit_code == 1
    assert "no token" in result.output


@pytest.mark.parametrize(
    ("until", "code"), [("2099-01-01T00:00:00Z", 0), ("2020-01-01T00:00:00Z", 1)]
)
def test_it_says_which_key_a_token_was_made_with(until: str, code: int) -> None:
    """The one that makes tokens, or the previous one with its date, which may be over."""
    before = user()
    environ = {
        **KEYS,
        "DAISI_WS_AUTH_TOKEN_AES_KEY": "0e" * 32,
        "DAISI_WS_AUTH_TOKEN_AES_KEY_PREVIOUS": USER_KEY,
        "DAISI_WS_AUTH_TOKEN_AES_KEY_PREVIOUS_UNTIL": until,
    }
    check = ["token", "check", "-"]
    result = CliRunner().invoke(cli, [*check, "--json"], env=environ, input=before)
    found = json.loads(result.output)
    assert (result.exit_code, found["valid"]) == (code, code == 0)
    assert (found["key"], found["key_until"]) == ("auth.token_aes_key_previous", until)
    text = CliRunner().invoke(cli, check, env=environ, input=before).output
    assert "auth.token_aes_key_previous, accepted until 20" in text
    assert ("which is over since" in text) == (code == 1)
    now = json.loads(token("check", "-", "--json", stdin=before).output)
    assert now["key"] == "auth.token_aes_key"
    assert "key_until" not in now
