"""The documents say what the code does: every name in them exists, every example works."""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

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
from tests.documents import (
    ALL,
    ARCHITECTURE,
    BY_HAND,
    CHANGELOG,
    DECISIONS,
    INDEX,
    MONITORING,
    OPERATIONS,
    PROTOCOL,
    README,
    ROOT,
    TROUBLE,
    anchors,
    blocks,
    in_code,
    links,
    prose,
    resolve,
    rows,
    shell_commands,
    text,
)

LONGEST_LINE: Final = 110
SECRETS: Final = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-of-the-documents",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "01" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-of-the-documents",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "02" * 32,
}
COMMANDS: Final = list(shell_commands())
PICTURES: Final = sorted((ROOT / "docs/images").iterdir())

_KEY = re.compile(rf"(?:{'|'.join({name.partition('.')[0] for name in SECTIONS})})\.[a-z_.]+")
_KEY_WITH_DEFAULT = re.compile(r"`([a-z_.]+)`\s\(([\w.]+)\)")
_REQUEST = re.compile(r"\b(GET|POST) (/[\w/{}-]*)")
_PLACES = ("daisi_ws/", "tests/", "docs/", "proto/", "conf/", "scripts/")

each_document = pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
each_written_by_hand = pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.name)


# -- links and pictures ---------------------------------------------------------------------------


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    """Files exist, and the headings that links name are there."""
    for link in links(path):
        name, _, anchor = link.partition("#")
        if name.startswith("https://"):
            continue
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{path.name} links outside: {link}"
        assert not anchor or anchor in anchors(target), f"{target.name} has no #{anchor}"


def test_every_document_is_in_the_index() -> None:
    """Who opens the folder finds them all."""
    linked = {(INDEX.parent / link).resolve() for link in links(INDEX)}
    assert linked == set(ALL) - {INDEX}
    assert set((ROOT / "docs").glob("*.md")) <= set(ALL)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_stand_alone(path: Path) -> None:
    """Well-formed SVG with a title and a description, nothing from outside, and shown somewhere."""
    names = [element.tag.rpartition("}")[2] for element in ET.parse(path).iter()]
    assert {"title", "desc"} <= set(names)
    assert not {"image", "script", "foreignObject"} & set(names)
    assert "href" not in path.read_text(encoding="utf-8")
    assert any(link.endswith(path.name) for document in ALL for link in links(document))


# -- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [words for _, words in COMMANDS], ids=[f"{d} {shlex.join(w)}" for d, w in COMMANDS]
)
def test_commands_in_shell_blocks_would_run(words: list[str]) -> None:
    """The command exists, has help, and takes the options and arguments as they stand there."""
    command, context, rest = resolve(words)
    name = words[: len(words) - len(rest)]
    result = CliRunner().invoke(cli, [*name, "--help"])
    assert result.exit_code == 0, result.output
    if rest != ["--version"]:
        command.make_context(context.info_name, rest, parent=context.parent)


@each_document
def test_shell_blocks_are_shell(path: Path) -> None:
    """The shell can read every block; those of README and install page are run in `tests/ops`."""
    for block in blocks(path, "sh"):
        read = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert read.returncode == 0, f"{block}\n{read.stderr}"


@each_document
def test_commands_in_prose_exist(path: Path) -> None:
    """`daisi-ws something --option` names a command and an option of it."""
    for word in in_code(prose(path)):
        if not word.startswith("daisi-ws "):
            continue
        command, context, rest = resolve(shlex.split(word)[1:])
        options = {option for param in command.get_params(context) for option in param.opts}
        assert {w for w in rest if w.startswith("--")} <= options, f"{path.name}: {word}"


def test_the_scripts_exist() -> None:
    """What a person is told to run is a file that can be run."""
    named = set(re.findall(r"scripts/\w+", "".join(map(text, ALL))))
    assert {"scripts/run", "scripts/test"} <= named
    assert not [name for name in named if not (ROOT / name).stat().st_mode & 0o100]


def test_the_readme_lists_every_command() -> None:
    """The table of commands is the command line's own list."""
    cells = " ".join(row[0] for row in rows(README, "## Commands"))
    assert set(cli.list_commands(click.Context(cli))) == set(re.findall(r"daisi-ws (\w+)", cells))


# -- configuration --------------------------------------------------------------------------------


@each_document
def test_configuration_keys_exist(path: Path) -> None:
    """Every `section.key` is a key or a section, and the default beside it is the default."""
    for word in in_code(prose(path)):
        name = word.partition(":")[0]
        if _KEY.fullmatch(name):
            assert name in FIELDS or name in SECTIONS, f"{path.name}: no key {name}"
    for name, value in _KEY_WITH_DEFAULT.findall(prose(path)):
        if name in FIELDS:
            assert as_yaml(FIELDS[name].default) == value, f"{path.name}: default of {name}"


@each_written_by_hand
def test_variables_exist(path: Path) -> None:
    """Every `DAISI_WS_…` variable is one that is read."""
    known = {field.environment for field in FIELDS.values()} | {FILE_VARIABLE}
    known |= {f"{field.environment}_FILE" for field in FIELDS.values() if field.key.secret}
    assert set(re.findall(r"\bDAISI_WS_[A-Z_]*[A-Z]\b", text(path))) <= known


@each_document
def test_example_configurations_are_valid(path: Path, tmp_path: Path) -> None:
    """Each block of YAML is a configuration, once the secrets are in the environment."""
    for number, block in enumerate(blocks(path, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        load(file, SECRETS, {})


def test_the_ladder_of_deadlines_is_the_codes() -> None:
    """Numbers and order are those of the module that states them, for the defaults."""
    config = load(None, SECRETS, {}).config
    ladder = deadlines(config.app.shutdown_timeout_seconds, config.server.shutdown_delay_seconds)
    assert [float(row[3]) for row in rows(OPERATIONS, "## Deadlines")] == [
        ladder.client_close,
        ladder.drain,
        ladder.supervisor_kill,
        ladder.manager_kill,
        ladder.orchestrator_kill,
    ]


# -- what others see ------------------------------------------------------------------------------


def metrics() -> dict[str, tuple[str, ...]]:
    """Return the labels of every metric by its name, as a scrape spells it."""
    made = vars(Metrics(CollectorRegistry())).values()
    found: dict[str, tuple[str, ...]] = {}
    for metric in made:
        if isinstance(metric, MetricWrapperBase):
            family = next(iter(metric.describe()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = metric._labelnames
    return found


def test_every_metric_is_explained() -> None:
    """The table of metrics has each metric with its labels, and no other."""
    table = {row[0].strip("`"): tuple(in_code(row[1])) for row in rows(MONITORING, "## Metrics")}
    assert table == metrics()


@each_document
def test_metrics_exist(path: Path) -> None:
    """Every `dws_…` is a metric, but for the name of the gRPC package."""
    assert set(re.findall(r"\bdws_[a-z_]+\b", text(path))) <= {*metrics(), "dws_message_fwd"}


async def test_endpoints_exist() -> None:
    """Every path that a document names is served with that method."""
    named = {found for path in ALL for found in _REQUEST.findall(text(path))}
    assert ("GET", "/ws/{company}/{agent}") in named
    async with serving() as running:
        for method, target in named:
            async with await Wire.connect(running.port) as wire:
                answer = await wire.request(method, re.sub("[{}]", "", target))
            assert answer.status not in (404, 405), f"{method} {target}: {answer.status}"


def test_the_table_of_close_codes_is_complete() -> None:
    """Each reason is there with its code and text; who may reconnect is told the same."""
    table = {(row[0], row[1]): row[3] for row in rows(PROTOCOL, "## Close codes")}
    assert set(table) == {(str(reason.code), reason.text) for reason in CloseReason}
    for reason in set(CloseReason) - {CloseReason.TOKEN_EXPIRED}:
        assert (table[str(reason.code), reason.text] != "no") == reason.reconnect, reason


@each_document
def test_close_codes_exist(path: Path) -> None:
    """A code of the private range is one that the gateway has."""
    codes = re.findall(r"(?<![\d,.])44\d\d(?![\d,]*\d)", prose(path))
    assert {int(code) for code in codes} <= {reason.code for reason in CloseReason}


def test_every_refusal_is_explained() -> None:
    """Each error code is told, in the table of refusals with its HTTP status."""
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+)", text(PROTOCOL), re.MULTILINE))
    told |= dict(re.findall(r"^`(\w+)` \((\d+)\)", text(PROTOCOL), re.MULTILINE))
    assert told == {kind.code: str(kind.http_status) for kind in Refusal.__subclasses__()}


def test_example_frames_are_frames() -> None:
    """What the server is said to send the client understands, and the other way round."""
    sent = "".join(blocks(PROTOCOL, "json", "server")).splitlines()
    table = {row[0].strip("`") for row in rows(PROTOCOL, "### From the server")}
    assert {json.loads(line)["type"] for line in sent} == table
    assert not [line for line in sent if isinstance(decode(line.encode()), Other)]
    received = "".join(blocks(PROTOCOL, "json", "client")).splitlines()
    parsed = {type(frames.parse_client_message(line)) for line in received}
    assert parsed == {frames.SelectChat, frames.RefreshToken, frames.ResumeFrom}


@each_document
def test_json_is_json(path: Path) -> None:
    """Every line of a JSON block can be parsed."""
    for line in "".join(blocks(path, "json")).splitlines():
        assert isinstance(json.loads(line), dict)


def test_every_redis_key_is_explained() -> None:
    """The table of keys is that of the module that makes them."""
    made = re.findall(r"^\| (`.*?) \|", redis_keys.__doc__ or "", re.MULTILINE)
    assert {row[0] for row in rows(ARCHITECTURE, "## What is stored")} == set(made)


def test_log_lines_exist() -> None:
    """Every line of the table, of a runbook or of troubleshooting is written in the package."""
    written = {
        node.value
        for file in (ROOT / "daisi_ws").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    told = {line for row in rows(OPERATIONS, "## Logs") for line in in_code(row[0])}
    runbooks = in_code(text(MONITORING).partition("\n## Runbooks\n")[2] + prose(TROUBLE))
    phrases = {line for line in runbooks if re.fullmatch(r"[a-z][a-z':,]*( [a-z':,]+)+", line)}
    assert len(phrases) > 10
    told |= phrases
    assert not told - written


# -- code -----------------------------------------------------------------------------------------


@each_document
def test_files_and_tests_exist(path: Path) -> None:
    """Every file, folder and test that is named is there."""
    for word in in_code(prose(path)):
        name, _, test = word.split(" ")[0].partition("::")
        if not name.startswith(_PLACES) and not re.fullmatch(r"[\w/]+\.(py|lua|proto)", name):
            continue
        beside = (ROOT, path.parent, ROOT / "daisi_ws", ROOT / "daisi_ws/app")
        file = next((place / name for place in beside if (place / name).exists()), None)
        assert file is not None, f"{path.name}: no file {name}"
        assert not test or f"def {test}(" in file.read_text(encoding="utf-8"), word


def test_every_dependency_has_its_reason() -> None:
    """What setup.cfg installs is explained, and nothing else."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = (setup["options"]["install_requires"], *setup["options.extras_require"].values())
    needed = {Requirement(line).name for some in lists for line in some.split("\n") if line}
    section = text(DECISIONS).partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    assert not [name for name in needed if name not in section]
    table = rows(DECISIONS, "## Dependencies")
    assert {name.strip() for row in table for name in row[0].split(",")} <= needed


def test_the_changelog_has_this_version() -> None:
    """The newest entry is the package's version, with a date."""
    newest = re.search(r"^## \[(.+?)\] - \d{4}-\d\d-\d\d$", text(CHANGELOG), re.MULTILINE)
    assert newest is not None
    assert newest[1] == __version__


@each_written_by_hand
def test_lines_fit(path: Path) -> None:
    """Prose is wrapped, so that changes to it can be read; tables and pictures cannot be."""
    lines = [line for line in prose(path).splitlines() if not line.startswith(("|", "!["))]
    assert not [line for line in lines if len(line) > LONGEST_LINE]
