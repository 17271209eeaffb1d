"""The page of troubleshooting has a row for all that can be met, and none for what cannot be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from daisi_ws.app.health import Health
from daisi_ws.app.readiness import Clock, Readiness
from daisi_ws.domain.close import CloseReason
from daisi_ws.domain.errors import Refusal
from daisi_ws.metrics import LIMITS, Metrics
from tests.documents import ROOT, TROUBLE, in_code, rows

PACKAGE: Final = ROOT / "daisi_ws"
KINDS: Final = Refusal.__subclasses__()
PARTS: Final = ("app/readiness_parts.py", "app/readiness_reader.py")


def nodes(*files: Path) -> Iterator[ast.AST]:
    """Yield everything in the code of files."""
    for file in files:
        yield from ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def calls(within: Iterator[ast.AST], *names: str) -> Iterator[ast.Call]:
    """Yield the calls of what has one of these names."""
    for node in within:
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in names:
                yield node


def words(node: ast.expr) -> str:
    """Return a text as the code has it, with … for what is filled in; empty for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(words(value) or "…" for value in values)
        case ast.BoolOp(values=[*_, last]) | ast.IfExp(orelse=last):
            return words(last)
        case _:
            return ""


def test_every_close_code() -> None:
    """Each reason to end a connection has its row, with code and label."""
    told = [(row[0], row[1].strip("`")) for row in rows(TROUBLE, "## Close codes")]
    assert sorted(told) == sorted((str(reason.code), reason.label) for reason in CloseReason)


def test_every_http_status() -> None:
    """Each status that a refusal is answered with has its row, with the codes that come with it."""
    told = {(int(row[0]), row[1].strip("`")) for row in rows(TROUBLE, "## HTTP status")}
    assert {code for _, code in told} == {kind.code for kind in KINDS}
    assert {(kind.http_status, kind.code) for kind in KINDS} <= told
    given = {kind.http_status for kind in KINDS}
    for call in calls(nodes(*PACKAGE.rglob("*.py")), "Rejection"):
        match call.args:
            case [_, ast.Constant(value=int(status))]:
                given.add(status)
    assert given > {413, 503}
    assert {status for status, _ in told} == given


def test_every_reason_of_a_refusal() -> None:
    """Each reason that the log and the metrics have is explained, and no other."""
    told = [word for row in rows(TROUBLE, "## Reasons of refusals") for word in in_code(row[0])]
    metrics = Metrics(CollectorRegistry())
    given = {*LIMITS, *reasons(metrics.auth_failure), *reasons(metrics.lock_failure)}
    names = (*(kind.__name__ for kind in KINDS), "_upgrade_required", "refused")
    for call in calls(nodes(*PACKAGE.rglob("*.py")), *names):
        found = [words(keyword.value) for keyword in call.keywords if keyword.arg == "reason"]
        if isinstance(call.func, ast.Name) and call.func.id in ("_upgrade_required", "refused"):
            found.append(words(call.args[-1]))
        given |= set(found) - {""}
    assert given > {"missing_upgrade", "bad_last_seq", "forged"}
    assert sorted(told) == sorted(given)


def reasons(metric: Counter) -> set[str]:
    """Return the values that a metric's label `reason` may have."""
    return {sample.labels["reason"] for each in metric.collect() for sample in each.samples}


def test_every_error_while_connected() -> None:
    """What is told by a message is a refusal that can come then, or of events that were dropped."""
    told = {row[0].strip("`") for row in rows(TROUBLE, "## Errors while connected")}
    before_only = {"InvalidAPIKey", "SessionConflict", "InternalServerError"}
    assert told == {kind.code for kind in KINDS} - before_only | {"EventsDropped"}


def test_every_reason_of_not_ready() -> None:
    """Each part of the way has all its reasons, and none that it does not have."""
    told = {(row[0].strip("`"), row[1].strip("`")) for row in rows(TROUBLE, "## NOT READY")}
    health = Health("pod", Readiness([], [], Clock()))
    health.drain()
    given = set(health.problems().items())
    for node in nodes(*(PACKAGE / name for name in PARTS)):
        if isinstance(node, ast.ClassDef):
            name, texts = said_by(node)
            given |= {(name, text) for text in texts - {""}}
    assert {"loop", "redis", "membership", "stream", "consumer", "reader", "grpc", "drain"} == {
        name for name, _ in given
    }
    assert told == given


def said_by(part: ast.ClassDef) -> tuple[str, set[str]]:
    """Return a part's name, and every reason that its code has for not being ready."""
    name, texts = "", set[str]()
    for node in ast.walk(part):
        match node:
            case ast.Assign(targets=[ast.Name(id="name")], value=value):
                name = words(value)
            case ast.Assign(targets=[ast.Attribute(attr="_problem")], value=ast.IfExp() as value):
                texts.add(words(value))
    for call in calls(ast.walk(part), "Look"):
        texts |= {words(argument) for argument in call.args[:1]}
    if any(calls(ast.walk(part), "silent")):
        texts |= {"… has not been asked yet", "… does not answer"}
    return name, texts


def test_every_reason_of_down() -> None:
    """What `/health` may say has its row, and nothing else."""
    told = {row[0].strip("`") for row in rows(TROUBLE, "## DOWN")}
    (made,) = calls(nodes(PACKAGE / "worker/parts.py"), "Health")
    texts = {words(node) for node in ast.walk(made) if isinstance(node, ast.Constant)}
    (dead,) = (
        node
        for node in nodes(PACKAGE / "app/health.py")
        if isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr)
    )
    assert dead.value is not None
    given = {*texts, words(dead.value)} - {"", "grpc"}
    assert {text.partition("…")[0] for text in told} == {text.partition("…")[0] for text in given}
