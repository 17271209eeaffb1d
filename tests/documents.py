"""The documents, cut into prose, blocks of code, tables, links and anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from daisi_ws.cli import cli

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
CHANGELOG: Final = ROOT / "CHANGELOG.md"
INDEX: Final = ROOT / "docs/index.md"
INSTALL: Final = ROOT / "docs/install.md"
PROTOCOL: Final = ROOT / "docs/protocol.md"
OPERATIONS: Final = ROOT / "docs/operations.md"
CONFIGURATION: Final = ROOT / "docs/configuration.md"
ARCHITECTURE: Final = ROOT / "docs/architecture.md"
MONITORING: Final = ROOT / "docs/monitoring.md"
DECISIONS: Final = ROOT / "docs/decisions.md"
CHAOS: Final = ROOT / "docs/chaos.md"
SECURITY: Final = ROOT / "docs/security.md"
BALANCERS: Final = ROOT / "docs/load-balancers.md"
TROUBLE: Final = ROOT / "docs/troubleshooting.md"
PERFORMANCE: Final = ROOT / "docs/performance.md"
BENCH: Final = ROOT / "bench/README.md"
BY_HAND: Final = (
    README, CHANGELOG, INDEX, INSTALL, PROTOCOL, OPERATIONS, MONITORING, ARCHITECTURE, DECISIONS,
    CHAOS, SECURITY, BALANCERS, TROUBLE, PERFORMANCE, BENCH,
)  # fmt: skip
ALL: Final = (*BY_HAND, CONFIGURATION)

_FENCE = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_CELL = re.compile(r"(?<!\\)\|")


def text(path: Path) -> str:
    """Return a whole document."""
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """Return a document without its blocks of code."""
    return _FENCE.sub("", text(path))


def blocks(path: Path, language: str, kind: str = "") -> list[str]:
    """Return the blocks of code of a language, and of a kind if one stands behind it."""
    found = _FENCE.findall(text(path))
    return [body for name, of, body in found if (name, of) == (language, kind)]


def in_code(some: str) -> list[str]:
    """Return what stands in backticks."""
    return _CODE.findall(some)


def links(path: Path) -> list[str]:
    """Return the targets of all links and pictures."""
    return _LINK.findall(prose(path))


def rows(path: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading."""
    part = text(path).partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert table, f"{path.name} has no table after {heading!r}"
    lines = [_CELL.split(line.strip().strip("|")) for line in table[0].splitlines()]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in plain}


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every `daisi-ws …` of the blocks of shell: the document's name, and the arguments."""
    for path in ALL:
        for line in "".join(blocks(path, "sh")).replace("\\\n", " ").splitlines():
            for command in re.split(r"\s(?:\||&&|;)\s", line):
                words = shlex.split(command.partition(" > ")[0], comments=True)
                if words and words[0].rpartition("/")[2] == "daisi-ws":
                    yield path.name, words[1:]


def resolve(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """Return the command that words name, its context, and what stands after its name."""
    command: click.Command = cli
    context = click.Context(cli, info_name="daisi-ws")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"{context.command_path} has no command {rest[0]}"
        context = click.Context(inner, info_name=rest.pop(0), parent=context)
        command = inner
    return command, context, rest
