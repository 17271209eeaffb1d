"""The reference of all keys, as YAML, as Markdown and as text, made from the schema."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from daisi_ws.config.keys import Field, Section, Value, number_text
from daisi_ws.config.schema import FIELDS, SECTIONS

YAML_COMMAND = "daisi-ws config doc --yaml > conf/config.yaml"
MARKDOWN_COMMAND = "daisi-ws config doc --markdown > docs/configuration.md"

_PLAIN = re.compile(r"[A-Za-z][\w./-]*(://[\w.:/-]*\w)?", re.ASCII)
_NO_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})

_YAML_HEAD = f"""\
# The configuration of daisi-ws: every key with its default. Remove the # before a key to set it.
#
# A value comes from here, from the environment (DAISI_WS_<SECTION>_<KEY>, which wins) or from a
# flag (which wins over both). The four secrets of `auth` have no default; they are better kept
# in the environment, or in files of their own (DAISI_WS_<SECTION>_<KEY>_FILE), than here. "hot"
# keys are applied when this file changes or at SIGHUP, "restart" keys by a rolling restart
# (SIGUSR2), "full restart" keys when the whole process starts.
#
#   daisi-ws config check    every problem at once
#   daisi-ws config show     the values in effect and where each comes from
#
# Made from the code by: {YAML_COMMAND}
"""

_MARKDOWN_HEAD = f"""\
# Configuration

Made from the code by `{MARKDOWN_COMMAND}`; a test fails when this file is not current.

## Where a value comes from
The later wins:

1. the default below,
2. the YAML file: `--config FILE`, else the one that `DAISI_WS_CONFIG` names, else
   `conf/config.yaml` in the working directory if there is one,
3. the environment: `DAISI_WS_<SECTION>_<KEY>`, for nested sections
   `DAISI_WS_ADAPTIVE_TTL_SESSION_LOCK_MIN_SECONDS`. Lists are separated by commas, truth is
   `true`/`false`, `yes`/`no` or `1`/`0`. A variable with an empty value counts as not set,
4. a flag of the command, such as `--workers`.

`daisi-ws config show` says for every key which of them it was, with file and line.

## What is refused
A key or variable that does not exist, a value of the wrong type or out of its range, values that
contradict one another (a lock renewed more slowly than it expires), files that cannot be read.
All problems come in one message, each with the key, the origin of the value, what is wrong and
what would be right; the exit code is 2. `daisi-ws config check` does only that. In YAML, numbers
and truth stand without quotes.

Variables that Kubernetes makes for a Service named `daisi-ws...` (`DAISI_WS_SERVICE_HOST`,
`DAISI_WS_PORT=tcp://...`) and `DAISI_WS_INTERNAL_...` are passed over.

## Secrets
`auth.secret_token`, `auth.token_aes_key`, `auth.admin_secret_token` and
`auth.admin_token_aes_key` must be given, and users' and admins' must differ. Each can be made by

```sh
python -c "import secrets; print(secrets.token_hex(32))"
```

Every secret can also be in a file of its own, alone on one line, that
`DAISI_WS_<SECTION>_<KEY>_FILE` names (`DAISI_WS_AUTH_SECRET_TOKEN_FILE=/run/secrets/api-key`).
Unlike a variable, such a file can change while the process runs.

Secrets and the login part of URLs are never shown, in no message, log line or `config show`.

## Reload
Everything is read again at SIGHUP, and by itself within seconds after the content of the file (or
of a file that a `DAISI_WS_..._FILE` names) has changed. A configuration with a problem changes
nothing. What a change of a key needs:

- *hot*: applies to the running processes at once,
- *restart*: waits for a rolling restart (SIGUSR2) or any other,
- *full restart*: waits until the whole process is started anew; a rolling restart keeps it.

`daisi-ws status` shows what waits.

## Keys
"""


def yaml_reference() -> str:
    """The text of ``conf/config.yaml``: every key with its default, as a comment."""
    lines = [_YAML_HEAD.rstrip()]
    for name, section in SECTIONS.items():
        indent = "  " * name.count(".")
        lines += ["", *_comment(_purpose(section), indent), f"{indent}{name.rpartition('.')[2]}:"]
        for field in _keys_of(name):
            lines += _yaml_key(field, indent + "  ")
    return "\n".join(lines) + "\n"


def markdown_reference() -> str:
    """The text of ``docs/configuration.md``."""
    sections = [markdown_section(name) for name in SECTIONS if any(_keys_of(name))]
    return _MARKDOWN_HEAD + "\n" + "\n".join(sections)


def markdown_of(name: str) -> str:
    """The tables of a section and those below it, or of one key.

    :raises KeyError: there is neither.
    """
    if name in FIELDS:
        return markdown_table([FIELDS[name]])
    sections = dict.fromkeys(field.section for field in named(name))
    return "\n".join(markdown_section(section) for section in sections)


def markdown_section(name: str) -> str:
    """One section's heading and table of keys.

    :param name: dotted name of a section.
    :raises KeyError: there is no such section.
    """
    variable = next(_keys_of(name)).environment.removesuffix(next(_keys_of(name)).leaf.upper())
    head = f"### {name}\n{_purpose(SECTIONS[name])} Environment: `{variable}<KEY>`.\n\n"
    return head + markdown_table(_keys_of(name))


def markdown_table(fields: Iterable[Field]) -> str:
    """A table of keys."""
    rows = ["| key | default | right is | reload | what it is for |", "|---|---|---|---|---|"]
    for field in fields:
        cells = (
            f"`{field.leaf}`",
            _default(field),
            field.right + _also(field),
            field.reload,
            field.key.about,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def text_reference(fields: Iterable[Field]) -> str:
    """Keys for a terminal: name, variable, purpose, what is right, default, reload."""
    blocks = []
    for field in fields:
        default = "" if field.required else f"Default: {as_yaml(field.default)} "
        about = textwrap.wrap(field.key.about, 94)
        lines = [*about, *textwrap.wrap(default + _facts(field), 94)]
        text = textwrap.indent("\n".join(lines), "    ")
        blocks.append(f"{field.name}  {field.environment}\n{text}")
    return "\n\n".join(blocks)


def named(name: str) -> list[Field]:
    """The keys of a section with those below it, or the one key of that name.

    :raises KeyError: there is neither.
    """
    if name in FIELDS:
        return [FIELDS[name]]
    if name in SECTIONS:
        return [field for field in FIELDS.values() if field.name.startswith(f"{name}.")]
    raise KeyError(name)


def as_yaml(value: Value) -> str:
    """``value`` as it is written in the file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return number_text(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    if _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _keys_of(section: str) -> Iterator[Field]:
    return (field for field in FIELDS.values() if field.section == section)


def _yaml_key(field: Field, indent: str) -> list[str]:
    shown = "" if field.required else f" {as_yaml(field.default)}"
    about, facts = _comment(field.key.about, indent), _comment(_facts(field), indent)
    return [*about, *facts, f"{indent}#{field.leaf}:{shown}"]


def _facts(field: Field) -> str:
    facts = ["required"] if field.required else []
    facts += [field.right + _also(field), field.reload]
    if field.key.example:
        facts.append(f"e.g. {field.key.example}")
    return f"[{'; '.join(facts)}]"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        98,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _purpose(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _default(field: Field) -> str:
    return "required" if field.required else f"`{as_yaml(field.default)}`"


def _also(field: Field) -> str:
    aliases = ", ".join(field.key.aliases)
    return f" (also written {aliases})" if aliases else ""
