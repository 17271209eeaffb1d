"""The documents say what the code does: every name in them exists, every example works."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from prometheus_client import CollectorRegistry

from daisi_ws import __version__
from daisi_ws.adapters import redis_keys
from daisi_ws.cli import cli
from daisi_ws.client import Other, decode
from daisi_ws.config import FIELDS, FILE_VARIABLE, SECTIONS, load
from daisi_ws.config.doc import as_yaml
from daisi_ws.domain import frames
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.deadlines import deadlines
from daisi_ws.domain.errors import Refusal
from daisi_ws.metrics import Metrics
from tests.adapters.http_support import Wire, serving

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("index", "protocol", "operations")),
    *(ROOT / "docs" / f"{name}.md" for name in ("configuration", "architecture", "decisions")),
]
PROTOCOL, OPERATIONS, ARCHITECTURE, DECISIONS = (
    ROOT / "docs" / f"{name}.md" for name in ("protocol", "operations", "architecture", "decisions")
)

_FENCE = re.compile(r"^```(\w*) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_KEY = re.compile(rf"(?:{'|'.join(name.partition('.')[0] for name in SECTIONS)})\.[a-z_.]+")
_KEY_WITH_DEFAULT = re.compile(r"`([a-z_.]+)`\s\(([\w.]+)\)")
_REQUEST = re.compile(r"\b(GET|POST) (/[\w/{}-]*)")
_HEAVY = {"grpc", "ws", "http"}
_SECRETS = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-of-the-documents",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "01" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-of-the-documents",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "02" * 32,
}


def text(path: Path) -> str:
    """Return a document."""
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """Return a document without its blocks of code."""
    return _FENCE.sub("", text(path))


def blocks(path: Path, language: str, kind: str = "") -> list[str]:
    """Return the blocks of code of a language."""
    found = _FENCE.findall(text(path))
    return [body for name, of, body in found if (name, of) == (language, kind)]


def code_words(path: Path) -> list[str]:
    """Return what stands in backticks."""
    return _CODE.findall(prose(path))


def rows(path: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading."""
    part = text(path).partition(f"\n{heading}\n")[2]
    assert part, f"{path.name} has no heading {heading!r}"
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert table, f"no table after {heading!r}"
    lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table[0].splitlines()]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.replace(" ", "-") for head in plain}


def ids(paths: list[Path]) -> list[str]:
    """Return short names for parametrized documents."""
    return [str(path.relative_to(ROOT)) for path in paths]


each_document = pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))


# -- links and pictures ---------------------------------------------------------------------------


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    """Files exist, and the headings that links name are there."""
    for link in _LINK.findall(prose(path)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{path.name} links outside: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path.name}: {target.name} has no #{anchor}"


def test_every_document_is_in_the_index() -> None:
    """Who opens the folder finds them all."""
    linked = {(ROOT / "docs" / link).resolve() for link in _LINK.findall(text(DOCS[2]))}
    assert set(DOCS) - {DOCS[2]} <= linked
    assert set((ROOT / "docs").glob("*.md")) <= set(DOCS)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").iterdir()), ids=lambda p: p.name)
def test_pictures_stand_alone(path: Path) -> None:
    """Well-formed SVG with a title and a description, without anything from outside."""
    picture = ET.parse(path).getroot()
    names = [element.tag.rpartition("}")[2] for element in picture.iter()]
    assert {"title", "desc"} <= set(names)
    assert not {"image", "script", "foreignObject"} & set(names)
    assert "href" not in path.read_text()
    assert any(path.name in text(document) for document in DOCS)


# -- commands -------------------------------------------------------------------------------------


def shell_commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every use of our commands in blocks of shell, with the document's name."""
    for path in DOCS:
        for line in "".join(blocks(path, "sh")).replace("\\\n", " ").splitlines():
            for command in re.split(r"\s(?:\||&&|;)\s", line):
                words = shlex.split(command, comments=True)
                if words and words[0].rpartition("/")[2] == "daisi-ws":
                    yield path.name, words[1:]


COMMANDS: Final = list(shell_commands())


def resolve(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """Return the command that words name, its context, and the arguments after its name."""
    command: click.Command = cli
    context = click.Context(cli, info_name="daisi-ws")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        assert inner is not None, f"{context.command_path} has no command {rest[0]}"
        context = click.Context(inner, info_name=rest.pop(0), parent=context)
        command = inner
    return command, context, rest


@pytest.mark.parametrize(
    "words", [words for _, words in COMMANDS], ids=[f"{d} {shlex.join(w)}" for d, w in COMMANDS]
)
def test_commands_in_shell_blocks_would_run(words: list[str]) -> None:
    """The command exists, has help, and takes the options and arguments as they stand there."""
    command, context, rest = resolve(words)
    names = [part for part in words[: len(words) - len(rest)]]
    result = CliRunner().invoke(cli, [*names, "--help"])
    assert result.exit_code == 0, result.output
    if "--version" not in rest:
        command.make_context(context.info_name, rest, parent=context.parent)


@each_document
def test_commands_in_prose_exist(path: Path) -> None:
    """`daisi-ws something --option` names a command and an option of it."""
    for word in code_words(path):
        if not word.startswith("daisi-ws "):
            continue
        command, context, rest = resolve([w for w in shlex.split(word)[1:] if w != "…"])
        options = {opt for param in command.get_params(context) for opt in param.opts}
        for option in (w for w in rest if w.startswith("--")):
            assert option in options, f"{path.name}: {word}"


def test_the_scripts_exist() -> None:
    """The two commands of the README are files that can be run."""
    named = set(re.findall(r"scripts/\w+", "".join(map(text, DOCS))))
    assert {"scripts/run", "scripts/test"} <= named
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o100, name


def test_the_readme_lists_every_command() -> None:
    """The table of commands is the command line's own list."""
    cells = " ".join(row[0] for row in rows(DOCS[0], "## Commands"))
    assert set(cli.list_commands(click.Context(cli))) == set(re.findall(r"daisi-ws (\w+)", cells))


# -- configuration --------------------------------------------------------------------------------


@each_document
def test_configuration_keys_exist(path: Path) -> None:
    """Every `section.key` is a key or a section, and a default beside it is the default."""
    for word in code_words(path):
        name = word.partition(":")[0]
        if _KEY.fullmatch(name):
            assert name in FIELDS or name in SECTIONS, f"{path.name}: no key {name}"
    for name, value in _KEY_WITH_DEFAULT.findall(prose(path)):
        if name in FIELDS:
            assert as_yaml(FIELDS[name].default) == value, f"{path.name}: default of {name}"


@each_document
def test_variables_exist(path: Path) -> None:
    """Every `DAISI_WS_…` variable is one that is read."""
    if path.name == "configuration.md":
        pytest.skip("made from the code, with examples of what is passed over")
    known = {field.environment for field in FIELDS.values()} | {FILE_VARIABLE}
    for name in re.findall(r"\bDAISI_WS_[A-Z_]+\b", text(path)):
        assert name in known, f"{path.name}: no variable {name}"


@pytest.mark.parametrize("path", DOCS, ids=ids(DOCS))
def test_example_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    """Each block of YAML is a configuration, once the secrets are in the environment."""
    for number, block in enumerate(blocks(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        load(file, _SECRETS, {})


# -- what others see ------------------------------------------------------------------------------


def metric_names() -> set[str]:
    """Return the names of all metrics, as a scrape spells them."""
    registry = CollectorRegistry()
    Metrics(registry)
    return {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }


def test_every_metric_is_explained() -> None:
    """The table of metrics has each metric once, with its labels, and no other."""
    table = {row[0].strip("`"): row for row in rows(OPERATIONS, "## Metrics")}
    assert set(table) == metric_names()
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for collector in vars(metrics).values():
        labels = getattr(collector, "_labelnames", None)
        if labels is not None:
            name = collector.describe()[0].name
            row = table.get(f"{name}_total") or table[name]
            assert set(_CODE.findall(row[1])) == set(labels), name


@each_document
def test_metrics_exist(path: Path) -> None:
    """Every `dws_…` is a metric."""
    names = metric_names() | {"dws_message_fwd"}
    for name in re.findall(r"\bdws_[a-z_]+\b", text(path)):
        assert name in names, f"{path.name}: no metric {name}"


async def test_endpoints_exist() -> None:
    """Every path that a document names is served with that method."""
    named = {found for path in DOCS for found in _REQUEST.findall(text(path))}
    assert ("GET", "/ws/{company}/{agent}") in named
    async with serving() as running:
        for method, target in named:
            path = target.replace("{", "").replace("}", "")
            async with await Wire.connect(running.port) as wire:
                answer = await wire.request(method, path)
            assert answer.status not in (404, 405), f"{method} {target}: {answer.status}"


def test_the_table_of_close_codes_is_complete() -> None:
    """Each reason is there with its code and text; who may reconnect is told the same."""
    table = {(row[0], row[1]): row[3] for row in rows(PROTOCOL, "## Close codes")}
    assert set(table) == {(str(reason.code), reason.text) for reason in CloseReason}
    for reason in CloseReason:
        told = table[str(reason.code), reason.text]
        fresh = reason is CloseReason.TOKEN_EXPIRED
        assert told.startswith(("yes", "as it likes", "with a fresh")) == (
            reason.reconnect or fresh
        ), reason


@each_document
def test_close_codes_exist(path: Path) -> None:
    """A code of the private range is one that is sent."""
    known = {reason.code for reason in CloseReason}
    for code in re.findall(r"(?<![\d,.])44\d\d(?![\d,.]*\d)", prose(path)):
        assert int(code) in known, f"{path.name}: no close code {code}"


def test_every_refusal_is_explained() -> None:
    """Each error code is in the table of refusals with its HTTP status."""
    table = {row[0].strip("`"): row[1] for row in rows(PROTOCOL, "## Connecting")}
    assert table, "the first table after the heading is what to send"
    whole = text(PROTOCOL)
    for refusal in Refusal.__subclasses__():
        assert f"`{refusal.code}`" in whole, refusal.code
        line = next(l for l in whole.splitlines() if f"`{refusal.code}`" in l and "4" in l or "5" in l)
        assert line
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d+)", whole, re.MULTILINE))
    for refusal in Refusal.__subclasses__():
        if refusal.code in listed:
            assert listed[refusal.code] == str(refusal.http_status), refusal.code


def test_example_frames_are_frames() -> None:
    """What the server is said to send the client understands, and the other way round."""
    sent = "".join(blocks(PROTOCOL, "json", "server")).splitlines()
    kinds = {json.loads(line)["type"] for line in sent}
    assert kinds == {"ready", "event", "error", "done", "token_expiring"}
    assert not [line for line in sent if isinstance(decode(line.encode()), Other)]
    received = "".join(blocks(PROTOCOL, "json", "client")).splitlines()
    assert {type(frames.parse_client_message(line)).__name__ for line in received} == {
        "SelectChat",
        "RefreshToken",
    }


@each_document
def test_json_is_json(path: Path) -> None:
    """Every line of a JSON block can be parsed."""
    for kind in ("", "server", "client"):
        for line in "".join(blocks(path, "json", kind)).splitlines():
            json.loads(line)


def test_every_redis_key_is_explained() -> None:
    """The table of keys is that of the module that makes them."""
    table = {row[0] for row in rows(ARCHITECTURE, "## What is stored")}
    lines = re.findall(r"^\| (`.*?) \|", redis_keys.__doc__ or "", re.MULTILINE)
    assert table == set(lines)


def test_the_ladder_of_deadlines_is_the_codes() -> None:
    """Numbers and order are those of the module that states them."""
    ladder = deadlines(
        load(None, _SECRETS, {}).config.app.shutdown_timeout_seconds,
        load(None, _SECRETS, {}).config.server.shutdown_delay_seconds,
    )
    told = [float(row[3]) for row in rows(OPERATIONS, "## Deadlines")]
    assert told == [
        ladder.client_close,
        ladder.drain,
        ladder.supervisor_kill,
        ladder.manager_kill,
        ladder.orchestrator_kill,
    ]


def test_log_lines_exist() -> None:
    """Every line of the table is written somewhere in the package, at that level or by name."""
    written = {
        node.value
        for file in (ROOT / "daisi_ws").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for row in rows(OPERATIONS, "## Logs"):
        for line in _CODE.findall(row[0]):
            assert line in written, f"nothing logs {line!r}"


# -- code -----------------------------------------------------------------------------------------


@each_document
def test_files_and_tests_exist(path: Path) -> None:
    """Every file, folder and test that is named is there."""
    for word in code_words(path):
        name, _, test = word.partition("::")
        if not re.fullmatch(r"[\w./-]+/[\w./-]*|[\w-]+\.(py|toml|cfg|md)", name):
            continue
        places = (ROOT / name, ROOT / "daisi_ws" / name)
        if re.match(r"(daisi_ws|tests|docs|proto|conf|scripts)/", name) or name.endswith(
            (".py", ".proto", ".lua")
        ):
            file = next((place for place in places if place.exists()), None)
            assert file is not None, f"{path.name}: no file {name}"
            if test:
                assert re.search(rf"def {re.escape(test)}\b", file.read_text()), word


def test_every_dependency_has_its_reason() -> None:
    """What setup.cfg installs is explained, nothing else is."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    lines += [line for extra in setup["options.extras_require"].values() for line in extra.split("\n")]
    needed = {Requirement(line).name for line in lines if line}
    section = text(DECISIONS).partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    assert not [name for name in needed if name not in section]
    table = {name.strip() for row in rows(DECISIONS, "## Dependencies") for name in row[0].split(",")}
    assert table <= needed


def test_the_changelog_has_this_version() -> None:
    """The newest entry is the package's version, with a date."""
    newest = re.search(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", text(DOCS[1]), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


@each_document
def test_lines_fit(path: Path) -> None:
    """Prose is wrapped, so that changes to it can be read; tables, links and code are not."""
    if path.name == "configuration.md":
        pytest.skip("made from the code")
    for line in prose(path).splitlines():
        assert len(line) <= 110 or line.startswith(("|", "![")), f"{path.name}: {line[:60]}…"
