"""`daisi-ws tail`: a client that prints what it gets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from daisi_ws.cli.options import (
    DURATION,
    ID,
    URL,
    config_option,
    load_config,
    refuse,
    scope_options,
)
from daisi_ws.cli.running import run
from daisi_ws.cli.tail_run import View, follow, fresh
from daisi_ws.cli.token_cmd import examine
from daisi_ws.cli.tokens import AdminScope, admin_token, given_token, user_token
from daisi_ws.client import ReferenceClient, admin_url, user_url
from daisi_ws.config import Config

F = TypeVar("F", bound=Callable[..., Any])

_TOKEN_SECONDS: Final = 3600.0

_EXIT_CODES = """
\b
Exit codes:
  0    ended by --count, or by --timeout without --count
  1    not connected, sent away for good, or --timeout before --count events had come
  2    the command line or the configuration has a problem
  130  Ctrl-C (143: SIGTERM)
"""


def _shared_options(function: F) -> F:
    for option in (
        config_option,
        click.option(
            "--timeout", type=DURATION, help="End after this time (10s, 5m), whatever came."
        ),
        click.option("--count", type=click.IntRange(min=1), help="End after so many events."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
        click.option(
            "--url",
            type=URL,
            help="Where the gateway is, such as http://host:port or https://host:port; the "
            "configured port of this machine if not given.",
        ),
        click.option(
            "--token",
            help="Use this token (- is standard input) instead of making one from the keys.",
        ),
    ):
        function = option(function)
    return function


@click.group("tail")
def tail_group() -> None:
    """Connect to the gateway as a client and print frames as they come.

    Reconnects by itself, with its position: what it missed is given again, each event once, where
    the gateway still has it (`ready` says so). Frames go to standard output, everything else to
    standard error.

    \b
    Example:
      daisi-ws tail user --company acme --agent sales --user ana --chat chat-7
    """


@tail_group.command(
    "user",
    epilog="""\b
Examples:
  daisi-ws tail user --company acme --agent sales --user ana
  daisi-ws tail user --company acme --agent sales --user ana --json --count 10 | jq .payload
"""
    + _EXIT_CODES,
)
@click.option("--company", type=ID, help="Company of the user (company_id).")
@click.option("--agent", type=ID, help="Agent whose chats are shown (agent_id).")
@click.option("--user", type=ID, help="The user (user_id).")
@click.option("--chat", type=ID, help="Also select this chat (chat_id).")
@_shared_options
def user_command(
    *,
    company: str | None,
    agent: str | None,
    user: str | None,
    chat: str | None,
    token: str | None,
    url: str | None,
    config_file: Path | None,
    **view: Any,
) -> None:
    """Connect as a user: the chat list of a company's agent, and one chat if given."""
    config = load_config(config_file)
    given = _shown(token)
    if given is not None:
        principal = examine(config, given, time.time()).principal
        if principal is not None and principal.kind == "user":
            company, agent = company or principal.company_id, agent or principal.agent_id
    if not company or not agent or not (user or given):
        refuse("give --company, --agent and --user (or --token)")
    who = (company, agent, user or "")
    address = user_url(url or _default_url(config), company, agent)
    shown = given or fresh(lambda: user_token(config, *who, _TOKEN_SECONDS))
    client = ReferenceClient(address, config.auth.secret_token, shown, positions=True)
    run(follow(client, View(**view), chat))


@tail_group.command(
    "admin",
    epilog="""\b
Examples:
  daisi-ws tail admin --admin root
  daisi-ws tail admin --admin root --subscribed-company acme --timeout 1m
"""
    + _EXIT_CODES,
)
@click.option("--admin", type=ID, help="The admin (admin_id).")
@scope_options
@_shared_options
def admin_command(
    *,
    admin: str | None,
    subscribed_company: str,
    subscribed_agent: str,
    company_restriction: str,
    token: str | None,
    url: str | None,
    config_file: Path | None,
    **view: Any,
) -> None:
    """Connect as an admin: the agents that the subscription and the restriction admit."""
    config = load_config(config_file)
    given = _shown(token)
    if not admin and not given:
        refuse("give --admin (or --token)")
    scope = AdminScope(subscribed_company, subscribed_agent, company_restriction)
    address = admin_url(url or _default_url(config))
    shown = given or fresh(lambda: admin_token(config, admin or "", scope, _TOKEN_SECONDS))
    client = ReferenceClient(address, config.auth.admin_secret_token, shown, positions=True)
    run(follow(client, View(**view), None))


def _shown(token: str | None) -> str | None:
    """Return the token that was given, if one was; it goes into a header."""
    given = None if token is None else given_token(token)
    if given is not None and not (given and given.isprintable()):
        refuse("--token is no token: want base64url, on one line; `daisi-ws token` makes one")
    return given


def _default_url(config: Config) -> str:
    host, port = config.server.http_host, config.server.http_port
    if port == 0:
        refuse("server.http_port is 0 (any free port): say where the gateway is with --url")
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    scheme = "https" if config.server.http_tls.enabled else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
