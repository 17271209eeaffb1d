"""``daisi-ws config``: check the configuration, show it, explain its keys."""

from __future__ import annotations

import json
import os
import sys
import time
from difflib import get_close_matches
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from daisi_ws.cli.options import config_option
from daisi_ws.config import (
    FIELDS,
    MASK,
    SECTIONS,
    ConfigError,
    Loaded,
    cautions,
    load,
    shown,
    value_of,
    without_userinfo,
)
from daisi_ws.config.doc import (
    markdown_of,
    markdown_reference,
    named,
    text_reference,
    yaml_reference,
)

_EXIT_CODES = """\b
Exit codes:
  0  done
  2  the configuration or the command line has a problem
"""


class _KeyName(click.ParamType[str]):
    """A section or key of the configuration, with shell completion."""

    name = "section|key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [*SECTIONS, *FIELDS]
        if value in names:
            return value
        for field in FIELDS.values():
            also = (field.environment, *(f"{field.section}.{a}" for a in field.key.aliases))
            if value in also:
                return field.name
        near = get_close_matches(value, names, n=1)
        near = near or [name for name in FIELDS if name.rpartition(".")[2] == value]
        hint = f"did you mean {near[0]}?" if near else f"sections are: {', '.join(SECTIONS)}"
        return self.fail(f"there is no {value!r}; {hint}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = (*SECTIONS, *FIELDS)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.group("config")
def config_group() -> None:
    """Check, show and explain the configuration.

    \b
    Example:
      daisi-ws config check && daisi-ws serve
    """


@config_group.command(
    "check",
    epilog="""\b
Exit codes:
  0  no problem; there may be warnings
  2  the configuration or the command line has a problem
""",
)
@config_option
def check_command(config_file: Path | None) -> None:
    """Report every problem of the configuration at once; warn of what should be looked at.

    \b
    Examples:
      daisi-ws config check
      DAISI_WS_LOG_LEVEL=debug daisi-ws config check --config /etc/daisi-ws.yaml
    """
    loaded = _load(config_file)
    for caution in cautions(loaded.config, loaded.origins, time.time()):
        click.echo(f"warning: {caution}", err=True)
    given = sum(not origin.startswith("default") for origin in loaded.origins.values())
    source = f"file {loaded.path}" if loaded.path else "no file"
    click.echo(f"ok: {source}, {given} of {len(FIELDS)} keys set, the others at their default")


@config_group.command("show", epilog=_EXIT_CODES)
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
def show_command(config_file: Path | None, as_json: bool) -> None:
    """Show the values in effect and where each comes from; secrets are masked.

    \b
    Examples:
      daisi-ws config show
      daisi-ws config show --json | jq '."server.http_port"'
    """
    loaded = _load(config_file)
    if as_json:
        click.echo(json.dumps({name: _entry(loaded, name) for name in FIELDS}, indent=2))
        return
    rows = [_row(loaded, name) for name in FIELDS]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


@config_group.command("doc", epilog=_EXIT_CODES)
@click.option("--markdown", "form", flag_value="markdown", help="As Markdown.")
@click.option("--yaml", "form", flag_value="yaml", help="As a YAML file with every key.")
@click.argument("name", metavar="[SECTION|KEY]", type=_KeyName(), required=False)
def doc_command(form: str | None, name: str | None) -> None:
    """Explain every key, or those of one SECTION, or one KEY.

    Says type, default, range, purpose, environment variable, and whether a change applies at
    once (hot), by a rolling restart (restart) or when the whole process is started anew.

    \b
    Examples:
      daisi-ws config doc nats
      daisi-ws config doc app.pong_wait_seconds
      daisi-ws config doc --yaml > config.yaml
    """
    if form == "yaml":
        if name is not None:
            raise click.UsageError("--yaml writes the whole file; leave SECTION|KEY away")
        click.echo(yaml_reference(), nl=False)
    elif form == "markdown":
        click.echo(markdown_of(name) if name else markdown_reference(), nl=False)
    else:
        click.echo(text_reference(named(name) if name else FIELDS.values()))


def _load(path: Path | None) -> Loaded:
    try:
        return load(path, os.environ, {})
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        click.echo("\n`daisi-ws config doc KEY` explains a key.", err=True)
        sys.exit(2)


def _row(loaded: Loaded, name: str) -> tuple[str, str, str]:
    field, value = FIELDS[name], value_of(loaded.config, name)
    is_set = " (set)" if field.key.secret and value else ""
    return name, shown(field, value) + is_set, loaded.origins[name]


def _entry(loaded: Loaded, name: str) -> dict[str, object]:
    field, value = FIELDS[name], value_of(loaded.config, name)
    entry: dict[str, object] = {"value": without_userinfo(value), "origin": loaded.origins[name]}
    if field.key.secret:
        entry |= {"value": MASK if value else None, "set": bool(value)}
    return entry | {"reload": field.reload}
