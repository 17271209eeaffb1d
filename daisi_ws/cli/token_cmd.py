"""`daisi-ws token`: makes tokens and explains them. Needs no network."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Final

import click
import msgspec

from daisi_ws.cli.options import DURATION, ID, config_option, load_config, scope_options
from daisi_ws.cli.tokens import AdminScope, admin_token, given_token, openers_of, user_token
from daisi_ws.cli.wording import duration, moment
from daisi_ws.config import Config
from daisi_ws.domain import token as contents
from daisi_ws.domain.errors import InvalidToken
from daisi_ws.domain.principal import Kind, Principal
from daisi_ws.domain.rfc3339 import format_utc

_KINDS: Final[tuple[Kind, ...]] = ("user", "admin")

_EXIT_CODES = """\b
Exit codes:
  0  done
  2  the command line or the configuration has a problem
"""

_expires = click.option(
    "--expires",
    type=DURATION,
    default="1h",
    show_default=True,
    help="How long it is valid: 90s, 15m, 1h, 7d.",
)


@click.group("token")
def token_group() -> None:
    """Make tokens from the configured keys, and explain what is in one.

    \b
    Example:
      daisi-ws token user --company acme --agent sales --user ana | daisi-ws token check -
    """


@token_group.command("user", epilog=_EXIT_CODES)
@click.option("--company", type=ID, required=True, help="Company of the user (company_id).")
@click.option("--agent", type=ID, required=True, help="Agent whose chats are shown (agent_id).")
@click.option("--user", type=ID, required=True, help="The user (user_id).")
@_expires
@config_option
def user_command(
    company: str, agent: str, user: str, expires: float, config_file: Path | None
) -> None:
    """Print a user's token, alone on one line.

    \b
    Example:
      TOKEN=$(daisi-ws token user --company acme --agent sales --user ana --expires 15m)
    """
    click.echo(user_token(load_config(config_file), company, agent, user, expires))


@token_group.command("admin", epilog=_EXIT_CODES)
@click.option("--admin", type=ID, required=True, help="The admin (admin_id).")
@scope_options
@_expires
@config_option
def admin_command(
    *,
    admin: str,
    subscribed_company: str,
    subscribed_agent: str,
    company_restriction: str,
    expires: float,
    config_file: Path | None,
) -> None:
    """Print an admin's token, alone on one line.

    \b
    Example:
      daisi-ws token admin --admin root --subscribed-company acme --expires 8h
    """
    config = load_config(config_file)
    scope = AdminScope(subscribed_company, subscribed_agent, company_restriction)
    click.echo(admin_token(config, admin, scope, expires))


@token_group.command(
    "check",
    # Older programs' tokens may begin with a dash.
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Exit codes:
  0  the token is valid
  1  it is not; the reason is printed
  2  the command line or the configuration has a problem
""",
)
@click.argument("token")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@config_option
def check_command(token: str, as_json: bool, config_file: Path | None) -> None:
    """Explain TOKEN: whose it is, whether it is valid, why not, how long, and by which key.

    TOKEN may be - for standard input, which keeps it out of the process list and the shell's
    history.

    \b
    Examples:
      daisi-ws token check - < token.txt
      daisi-ws token check "$TOKEN" --json | jq .expires_in_seconds
    """
    finding = examine(load_config(config_file), given_token(token), time.time())
    click.echo(json.dumps(finding.as_json()) if as_json else finding.as_text())
    sys.exit(0 if finding.valid else 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a token turned out to be.

    :param kind: whose key opens it; None if neither does.
    :param problem: why it is not valid; empty if it is.
    :param fields: its content as written.
    :param expires_in: seconds until its end, negative since its end.
    :param key: name of the configuration key that opens it.
    :param key_until: Unix time in seconds until which that key is accepted; None for ever.
    """

    kind: Kind | None
    problem: str
    fields: dict[str, object] = field(default_factory=dict)
    principal: Principal | None = None
    expires_in: float | None = None
    key: str = ""
    key_until: float | None = None

    @property
    def valid(self) -> bool:
        """Tell whether the gateway takes it now."""
        return not self.problem

    def as_json(self) -> dict[str, object]:
        """Return it for machines."""
        found: dict[str, object] = {"valid": self.valid, "kind": self.kind, "content": self.fields}
        if self.problem:
            found["problem"] = self.problem
        if self.key:
            found["key"] = self.key
        if self.key_until is not None:
            found["key_until"] = format_utc(self.key_until)
        if self.expires_in is not None:
            found["expires_in_seconds"] = round(self.expires_in, 3)
        if self.principal is not None:
            found["sees"] = _sees(self.principal)
        return found

    def as_text(self) -> str:
        """Return it for people."""
        if self.valid:
            assert self.expires_in is not None
            head = f"{click.style('valid', fg='green')} for {duration(self.expires_in)}"
        else:
            head = f"{click.style('not valid', fg='red')}: {self.problem}"
        lines = [f"{self.kind} token, {head}" if self.kind else head]
        rows = {name: str(value) for name, value in self.fields.items()}
        if self.principal is not None:
            rows["expires"] = f"{moment(self.principal.expires_at)} local time"
            rows["sees"] = _sees(self.principal)
        if self.key:
            rows["key"] = self.key
        if self.key_until is not None:
            rows["key"] += f", accepted until {moment(self.key_until)} local time"
        width = max((len(name) for name in rows), default=0)
        return "\n".join([*lines, *(f"  {name:<{width}}  {rows[name]}" for name in rows)])


def examine(config: Config, token: str, now: float) -> Finding:
    """Find out what a token is; both kinds' keys are tried.

    :param now: Unix time in seconds.
    """
    reasons: list[str] = []
    for kind in _KINDS:
        for codec, key, until in openers_of(config, kind):
            try:
                content = codec.decode(token)
            except InvalidToken as refusal:
                reasons.append(refusal.reason)
            else:
                return _with_key(_read(kind, content, now), key, until, now)
    if "forged" in reasons:
        problem = (
            "neither the users' nor the admins' keys open it: it was made with another key, "
            "or changed, or cut"
        )
    else:
        problem = "it is no token: want base64url of at least 28 bytes, nothing around it"
    return Finding(None, problem)


def _read(kind: Kind, content: bytes, now: float) -> Finding:
    fields = _fields(content)
    try:
        principal = contents.read(kind, content)
    except InvalidToken:
        wanted = "company_id, agent_id, user_id" if kind == "user" else "admin_id"
        return Finding(
            kind, f"its content is wrong: want {wanted} and expires_at (RFC 3339)", fields
        )
    left = principal.expires_at - now
    problem = "" if left > 0 else f"it expired {duration(-left)} ago"
    return Finding(kind, problem, fields, principal, left)


def _with_key(finding: Finding, key: str, until: float, now: float) -> Finding:
    problem = finding.problem
    if not problem and now >= until:
        problem = f"it was made with {key}, which is over since {duration(now - until)}"
    key_until = None if until == inf else until
    return replace(finding, problem=problem, key=key, key_until=key_until)


def _fields(content: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(content, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return {}


def _sees(principal: Principal) -> str:
    company, agent = principal.company_id, principal.agent_id
    if principal.kind == "user":
        return f"chats and messages of company {company}, agent {agent}"
    if not principal.subject:
        return "nothing: the restriction excludes the subscribed company"
    whose = "all companies" if company == "*" else f"company {company}"
    which = "all agents" if agent == "*" else f"agent {agent}"
    return f"agent events of {whose}, {which}"
