"""The benchmark runs, and accounts for every delivery; how fast is no question of a test."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from bench.against import Against, over_floor
from bench.profiling import wrapper
from bench.results import Figure, Results, ratio
from bench.table import rows
from bench.targets import Gateway, Version
from bench.wire import Client, Shared, client_frame, parse
from daisi_ws.domain.wire import text_frame
from tests.cluster import ROOT, Keys

ACCOUNTS = ("lost", "doubled", "disordered", "foreign")
TINY = (
    *("path", "parts", "--repeat", "1", "--path-rates", "100", "--path-seconds", "1"),
    *("--path-clients", "10", "--path-layouts", "1x2"),
    *("--parts-seconds", "0.001", "--parts-times", "1", "--parts-users", "10"),
)


async def run(out: Path, *arguments: str) -> Results:
    """Run the benchmark as a person does; return what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "--out", str(out), *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return Results.load(out / "results.json")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run of this module leaves what it found."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def results(out: Path) -> Results:
    """One small run."""
    return asyncio.run(run(out, *TINY))


def test_every_delivery_is_accounted_for(results: Results) -> None:
    """Product and floor deliver everything, once and in order, and cost something."""
    assert not [note for note in results.notes if "not finished" in note], results.notes
    variants = {variant for _, variant, _ in results.rows("path")}
    assert variants == {"floor", "product 1x2"}
    for _, variant, figures in results.rows("path"):
        assert {name: figures[name].values for name in ACCOUNTS} == {n: [0] for n in ACCOUNTS}
        assert figures["deliveries_s"].median > 0, variant
        assert 0 < figures["p50_ms"].median <= figures["p99_ms"].median


def test_every_part_is_measured(results: Results) -> None:
    """Each row of the older service's table has a figure of the product beside it."""
    measured = {case for case, variant, _ in results.rows("parts") if variant == "product"}
    older = {case for case, variant, _ in results.rows("parts") if variant == "older service"}
    assert len(measured) >= 20
    assert older < measured


def test_the_report_stands_alone(results: Results, out: Path) -> None:
    """One file with tables and pictures, and nothing from outside."""
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report
    assert "product 1x2" in report
    assert not [word for word in ("<script", "<link", "src=") if word in report]
    assert results.machine.cores > 0


FAILS = """
from bench.cli import GROUPS, main

async def broken(bench):
    raise ConnectionResetError("Redis has gone")

async def measured(bench):
    bench.results.add("path", "100/s", "product 1x1", cpu_us=7.0)

GROUPS.update(parts=broken, path=measured)
main()
"""


async def test_a_group_that_fails_takes_no_other_along(tmp_path: Path) -> None:
    """Whatever it was is named, the rest is measured and reported, and the exit code says so."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FAILS, "parts", "path", "--out", str(tmp_path)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().endswith("not finished: parts\n")
    found = Results.load(tmp_path / "results.json")
    assert found.groups() == ["path"]
    assert "parts was not finished: ConnectionResetError: Redis has gone" in found.notes
    assert "Redis has gone" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_each_start_of_a_host_has_a_memory_profile_of_its_own(tmp_path: Path) -> None:
    """Neither another host nor a later group overwrites it."""
    files = set()
    for name in ("host-0", "host-1", "host-0"):
        host = Gateway(tmp_path, "", "", keys=Keys(), name=name, first_port=1)
        host.version, host.target = Version(wrapper=wrapper("memray", tmp_path)), "product 2x1"
        command = host.command()
        files.add(Path(command[command.index("-o") + 1]))
    assert len(files) == 3
    assert {file.parent for file in files} == {tmp_path / "profiles"}


def test_ratios_are_of_the_same_repeat() -> None:
    """What is measured in turn is compared in turn."""
    above = Figure("g", "c", "product 1x1", "cpu_us", [30.0, 60.0, 90.0])
    below = Figure("g", "c", "floor", "cpu_us", [10.0, 30.0, 30.0])
    found = ratio(above, below)
    assert found is not None
    assert (found.median, found.low, found.high) == (3.0, 2.0, 3.0)
    unpaired = ratio(above, below, paired=False)
    assert unpaired is not None
    assert (unpaired.low, unpaired.high) == (1.0, 9.0)
    below.values.pop(0)  # it was saturated in some repeat: which one is not known
    fewer = ratio(above, below)
    assert fewer is not None
    assert (fewer.median, fewer.low, fewer.high) == (2.0, 1.0, 3.0)


def test_an_earlier_result_is_compared(results: Results) -> None:
    """`--against FILE` finds the same figure in the file; against itself the ratio is one."""
    earlier = Against("before", [], results)
    heading, *body = rows(results, earlier, "path")
    assert heading[-1] == "/ before"
    of_product = [row for row in body if row[1].startswith("product")]
    assert [row[-1] for row in of_product] == ["1.00"]
    figure = results.find("path", "100/s", "floor", "cpu_us")
    assert figure is not None
    assert over_floor(results, figure) is None


async def test_a_run_is_not_blamed_for_drops_of_the_one_before() -> None:
    """Clients stay for many runs; what one of them was told counts once."""
    client = Client(Shared(), b"", b"")
    client.data_received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    client.data_received(
        text_frame(b'{"type":"error","payload":{"code":"EventsDropped","dropped":3}}')
    )
    assert client.dropped_told == 1
    client.forget()
    assert client.dropped_told == 0


async def test_sigterm_ends_a_run_in_the_background(tmp_path: Path) -> None:
    """Scripts start jobs in the background with SIGINT ignored."""
    bench = f"trap '' INT; exec {sys.executable} -m bench idle --idle-clients 10 --out {tmp_path}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", bench),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    while b"starting product" not in (line := await process.stdout.readline()):
        assert line, "it ended by itself"
    process.terminate()
    await process.stdout.read()
    assert await process.wait() != 0
    assert not (tmp_path / "results.json").exists()


def test_the_load_takes_frames_apart() -> None:
    """Several frames in one piece, the last of them cut off; long and short ones."""
    events = [
        text_frame(b'{"type":"event","seq":1,"payload":{"event_id":"%d","x":"%b"}}' % (n, pad))
        for n, pad in ((7, b""), (8, b"x" * 300), (9, b"x" * 70_000))
    ]
    ready = text_frame(b'{"type":"ready"}')
    whole = parse(ready + b"".join(events))
    assert whole.numbers == [7, 8, 9]
    assert whole.others == [(0x81, b'{"type":"ready"}')]
    cut = parse(events[0] + events[1][:-1])
    assert (cut.numbers, cut.used) == ([7], len(events[0]))
    assert client_frame(0x8A, b"ping") == b"\x8a\x84\0\0\0\0ping"
