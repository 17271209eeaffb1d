"""The dashboard that is shipped: its panels, and their queries as Grafana would send them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from tests.monitoring.prometheus import DASHBOARD


@dataclass(frozen=True)
class Query:
    """One query of a panel, and how its series are named."""

    expression: str
    legend: str

    def filled(self, interval: str) -> str:
        """Return it for all clusters and hosts, with rates over this interval."""
        return filled(self.expression, {"__rate_interval": interval})

    def name(self, labels: Mapping[str, str]) -> str:
        """Return the name of a series."""
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Panel:
    """A panel; a row has no queries."""

    kind: str
    title: str
    description: str
    unit: str
    place: Mapping[str, int]
    queries: tuple[Query, ...]


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Replace a dashboard's variables; those that choose get everything."""
    everything = {"job": ".*", "instance": ".*", "datasource": "prometheus"}
    values = {**everything, **variables}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], text)


@cache
def dashboard() -> Any:
    """Return the whole."""
    return json.loads(DASHBOARD.read_text())


@cache
def panels() -> tuple[Panel, ...]:
    """Return all panels in their order."""
    return tuple(
        Panel(
            kind=panel["type"],
            title=panel["title"],
            description=panel.get("description", ""),
            unit=panel.get("fieldConfig", {}).get("defaults", {}).get("unit", ""),
            place=panel["gridPos"],
            queries=tuple(Query(t["expr"], t["legendFormat"]) for t in panel.get("targets", ())),
        )
        for panel in dashboard()["panels"]
    )
