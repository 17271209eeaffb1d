"""What several commands share: options, parameter types, and how errors end a command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

from daisi_ws.config import Config, ConfigError, load, without_userinfo
from daisi_ws.domain.errors import BadRequest
from daisi_ws.domain.ids import check_id, check_scope

EXIT_USAGE: Final = 2

_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SCHEMES: Final = ("http", "https", "ws", "wss")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd]?)")

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """The command could not do its work; ends with exit code 1.

    :param problem: what happened, one sentence.
    :param next_step: what whoever reads it can do.
    """

    exit_code = 1

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(problem)
        self.next_step = next_step

    def show(self, file: IO[Any] | None = None) -> None:
        """Write both to standard error."""
        click.echo(f"{click.style('error:', fg='red')} {self.message}", err=True)
        if self.next_step:
            click.echo(f"  {self.next_step}", err=True)


class IdType(click.ParamType[str]):
    """An identifier, which may become part of subjects and keys."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        try:
            return check_id(_name_of(param), value)
        except BadRequest as refusal:
            self.fail(refusal.details or refusal.message, param, ctx)


class ScopeType(click.ParamType[str]):
    """An identifier, or `*` for all."""

    name = "id|*"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        try:
            return check_scope(_name_of(param), value)
        except BadRequest as refusal:
            self.fail(f"{refusal.details or refusal.message}; or * for all", param, ctx)


class DurationType(click.ParamType[float]):
    """A time such as `90`, `90s`, `15m`, `1h` or `7d`; in seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return it in seconds."""
        if isinstance(value, float | int):
            return float(value)
        match = _DURATION.fullmatch(value)
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0.0 < seconds < 1e10:
            self.fail(f"{value!r} is no duration: want e.g. 90s, 15m, 1h or 7d", param, ctx)
        return seconds


class UrlType(click.ParamType[str]):
    """Where a gateway is; a path may follow, of a proxy that gives it one."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        if wrong := _wrong_with(value):
            problem = f"{without_userinfo(value)!r} {wrong}: want http://host:port or https://…"
            self.fail(problem, param, ctx)
        return value


ID: Final = IdType()
SCOPE: Final = ScopeType()
DURATION: Final = DurationType()
URL: Final = UrlType()


def config_option(function: F) -> F:
    """Add `--config FILE`, passed as `config_file`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="YAML file; otherwise $DAISI_WS_CONFIG, else conf/config.yaml if there is one.",
    )(function)


def scope_options(function: F) -> F:
    """Add the three options that say what an admin may see; `*` is no bound."""
    for option in (
        click.option(
            "--company-restriction",
            type=SCOPE,
            default="*",
            help="Never show another company than this, whatever is subscribed to; * for no bound.",
        ),
        click.option(
            "--subscribed-agent", type=SCOPE, default="*", help="Show this agent only; * for all."
        ),
        click.option(
            "--subscribed-company",
            type=SCOPE,
            default="*",
            help="Show agents of this company only; * for all.",
        ),
    ):
        function = option(function)
    return function


def load_config(config_file: Path | None) -> Config:
    """Read and check the configuration, or end the command with all its problems (code 2)."""
    try:
        return load(config_file, os.environ, {}).config
    except ConfigError as error:
        click.echo(f"{click.style('error:', fg='red')} {error}", err=True)
        click.echo("\n`daisi-ws config doc KEY` explains a key.", err=True)
        click.get_current_context().exit(EXIT_USAGE)


def refuse(problem: str) -> NoReturn:
    """End the command with code 2: what was given cannot be used."""
    raise click.UsageError(problem)


def _wrong_with(url: str) -> str:
    """Return what a gateway's address lacks, or has too much; empty if nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL ({error})"
    if parts.scheme not in _SCHEMES or not parts.netloc:
        return "does not begin with http:// or https://"
    if not parts.hostname or port == 0 or not url.isprintable() or " " in url:
        return "names no host, or no port of one"
    if "@" in parts.netloc:
        return "has a login; the token is the login"
    return "goes on after the path" if parts.query or parts.fragment else ""


def _name_of(param: click.Parameter | None) -> str:
    """Return the field that an option fills: `--company` is `company_id` everywhere else."""
    name = (param.name if param is not None else None) or "id"
    return f"{name}_id" if name in ("company", "agent", "user", "admin", "chat") else name
