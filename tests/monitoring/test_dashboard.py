"""The dashboard that is shipped is true to the product, and whole."""

from __future__ import annotations

import re

import pytest

from tests.monitoring.dashboard import Panel, dashboard, panels
from tests.monitoring.prometheus import product_metrics, strangers

SHOWN = [panel for panel in panels() if panel.kind != "row"]

each_panel = pytest.mark.parametrize("panel", SHOWN, ids=lambda panel: panel.title)


@each_panel
def test_what_panels_ask_for_exists(panel: Panel) -> None:
    """Each metric, label and value of a label is the product's; one cluster and host is chosen."""
    assert panel.queries
    assert panel.description
    assert panel.unit
    for query in panel.queries:
        assert not strangers(query.expression)
        metrics = re.findall(r"\bdws_[a-z_]+(?:\{[^}]*\})?", query.expression)
        assert all('job=~"$job", instance=~"$instance"' in metric for metric in metrics)


def test_every_metric_is_shown() -> None:
    """But for some that are for questions, not for a look."""
    asked = " ".join(query.expression for panel in SHOWN for query in panel.queries)
    hidden = {name for name in product_metrics() if name not in asked}
    assert hidden == {
        "dws_auth_previous_key_total",
        "dws_catch_ups_total",
        "dws_certificate_expiry_seconds",
        "dws_connection_duration_seconds",
        "dws_resume_scans_total",
    }


def test_variables_and_annotations_ask_for_what_exists() -> None:
    """What fills the choices, and the marks of alerts, are the product's too."""
    variables = {v["name"]: v for v in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    for name in ("job", "instance"):
        assert not strangers(variables[name]["definition"])
    used = set(re.findall(r"\$\{?(\w+)", str(dashboard())))
    assert used <= {*variables, "__rate_interval", "__all"}


def test_panels_do_not_cover_one_another() -> None:
    """Every panel has a place of its own within the 24 columns, and an ID."""
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel.place
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel.title
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)
