"""A real Prometheus, with the configuration and the rules that the project ships."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from daisi_ws.embedded import free_ports
from daisi_ws.metrics import Metrics
from tests.tools import tool

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = ROOT / "conf/prometheus/prometheus.yml"
RULES: Final = ROOT / "conf/prometheus/daisi-ws.rules.yml"
RULES_TEST: Final = ROOT / "conf/prometheus/daisi-ws.rules.test.yml"
DASHBOARD: Final = ROOT / "conf/grafana/daisi-ws.json"
HOST: Final = "127.0.0.1"
DEADLINE: Final = 60.0
TARGET_LABELS: Final = frozenset({"job", "instance"})
"""Labels that Prometheus itself gives to every series."""

_NAME = re.compile(r"\bdws_[a-z_]+\b")
_SELECTOR = re.compile(r"\b(dws_[a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")
_RELABELLED = re.compile(r'label_replace\(.*?, "(\w+)", ')
_PART_OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool; its output is in one piece."""
    return subprocess.run(
        [tool("promtool"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=150,
    )


# -- what the product has -------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A metric: its labels, and the values of those that are from a list."""

    type: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[str, frozenset[str]]


@cache
def product_metrics() -> Mapping[str, Known]:
    """Return the metrics of the product by the names that queries use."""
    found = {}
    for metric in vars(Metrics(CollectorRegistry())).values():
        if isinstance(metric, MetricWrapperBase):
            family = next(iter(metric.collect()))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels: tuple[str, ...] = metric._labelnames
            values = {
                label: frozenset(s.labels[label] for s in family.samples if label in s.labels)
                for label in (labels if family.type == "counter" else ())
            }
            found[name] = Known(family.type, family.documentation, labels, values)
    return found


def strangers(expression: str) -> list[str]:
    """Return what a query names and the product does not have: metrics, labels, their values."""
    problems: list[str] = []
    labels = {*TARGET_LABELS, *_RELABELLED.findall(expression)}
    for name in _NAME.findall(expression):
        metric = _metric(name)
        if metric is None:
            problems.append(name)
            continue
        labels |= {*metric.labels, *(("le",) if name.endswith("_bucket") else ())}
    for name, matchers in _SELECTOR.findall(expression):
        metric = _metric(name)
        for label, sign, value in _MATCHER.findall(matchers) if metric else ():
            assert metric is not None
            if label not in {*metric.labels, *TARGET_LABELS, "le"}:
                problems.append(f"{name}{{{label}}}")
            elif known := metric.values.get(label):
                wanted = {value} if sign in ("=", "!=") else set(value.split("|"))
                problems += [f'{name}{{{label}="{v}"}}' for v in wanted - known if "$" not in v]
    for group in _GROUPED.findall(expression):
        problems += [part for part in re.findall(r"\w+", group) if part not in labels]
    return problems


def _metric(name: str) -> Known | None:
    known = product_metrics()
    base = _PART_OF_HISTOGRAM.sub("", name)
    if base != name and base in known and known[base].type == "histogram":
        return known[base]
    return known[name] if name in known and known[name].type != "histogram" else None


# -- a running one --------------------------------------------------------------------------------


class Prometheus:
    """The HTTP API of one that runs."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of `/api/v1`.

        :raises AssertionError: Prometheus does not understand it.
        """
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as reply:
            answer = await reply.json()
        assert answer["status"] == "success", f"{path} {parameters}: {answer}"
        return answer["data"]

    async def query(self, expression: str) -> dict[str, float]:
        """Return the values of an instant query by what their labels say (`type=user`)."""
        result = (await self.api("query", query=expression))["result"]
        return {
            ",".join(f"{k}={v}" for k, v in sorted(sample["metric"].items())): float(
                sample["value"][1]
            )
            for sample in result
        }

    async def series(self) -> list[dict[str, str]]:
        """Return the labels of all series of the product that there are now."""
        found: list[dict[str, str]] = [
            sample["metric"]
            for sample in (await self.api("query", query='{__name__=~"dws_.+"}'))["result"]
        ]
        return found

    async def until(self, expected: Mapping[str, Mapping[str, float]]) -> None:
        """Return once every query has this answer.

        :raises AssertionError: some never had, with what they had last.
        """
        deadline = time.monotonic() + DEADLINE
        while True:
            answers = {query: await self.query(query) for query in expected}
            wrong = {q: (answers[q], dict(e)) for q, e in expected.items() if answers[q] != e}
            if not wrong:
                return
            assert time.monotonic() < deadline, "\n".join(
                f"{query}: {found} instead of {wanted}" for query, (found, wanted) in wrong.items()
            )
            await asyncio.sleep(0.1)


@asynccontextmanager
async def prometheus(
    folder: Path, targets: Iterable[str], interval: str = "1s"
) -> AsyncIterator[Prometheus]:
    """Run Prometheus with the shipped configuration until the block is left.

    :param folder: for its data.
    :param targets: `host:port` of what is scraped instead of the example's hosts.
    :param interval: between two scrapes and two evaluations.
    """
    port = free_ports(1)
    process = _start(folder, port, list(targets), interval)
    try:
        url = f"http://{HOST}:{port}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            await _until_ready(process, session, url)
            yield Prometheus(url, session)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


def _start(folder: Path, port: int, targets: list[str], interval: str) -> subprocess.Popen[bytes]:
    config = yaml.safe_load(CONFIG.read_text())
    config["global"] = {
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "evaluation_interval": interval,
    }
    config["rule_files"] = [str(CONFIG.parent / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        return subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "1"},
        )


async def _until_ready(
    process: subprocess.Popen[bytes], session: aiohttp.ClientSession, url: str
) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        assert process.poll() is None, "Prometheus ended; see prometheus.log beside its data"
        assert time.monotonic() < deadline, "Prometheus does not become ready"
        try:
            async with session.get(f"{url}/-/ready") as reply:
                if reply.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.05)
