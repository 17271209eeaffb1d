"""The alerts that are shipped: understood, tested, true to the product, each with a runbook."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
import yaml

from tests.documents import MONITORING, anchors, text
from tests.monitoring.prometheus import CONFIG, RULES, RULES_TEST, promtool, strangers

ALERTS: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}
RUNBOOKS: Final = "## Runbooks"

each_alert = pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS.keys())


def test_prometheus_understands_configuration_and_rules() -> None:
    """`promtool check` finds nothing wrong, nor anything that would be better otherwise."""
    for command in (("check", "config", CONFIG), ("check", "rules", RULES)):
        checked = promtool(*command)
        assert checked.returncode == 0, checked.stdout
        assert "WARNING" not in checked.stdout


@pytest.mark.timeout(180)
def test_alerts_fire_when_they_should_and_only_then() -> None:
    """`promtool test rules` over made-up series; each alert has a case for both."""
    tested = promtool("test", "rules", RULES_TEST)
    assert tested.returncode == 0, tested.stdout
    cases = yaml.safe_load(RULES_TEST.read_text())["tests"]
    said = {tuple(case["name"].partition(":")[0].split(" ", 1)) for case in cases}
    assert said == {(name, what) for name in ALERTS for what in ("fires", "is quiet")}
    for case in cases:
        name, what = case["name"].partition(":")[0].split(" ", 1)
        (asked,) = case["promql_expr_test"]
        assert f'"{name}"' in asked["expr"]
        assert bool(asked["exp_samples"]) == (what == "fires")


@each_alert
def test_what_alerts_ask_for_exists(alert: dict[str, Any]) -> None:
    """Each metric, label and value of a label is the product's."""
    assert not strangers(alert["expr"])


def test_strangers_are_noticed() -> None:
    """What the product does not have is found, whatever it is."""
    assert strangers('sum by (job, colour) (dws_reader{shade="red"})') == [
        "dws_reader{shade}",
        "colour",
    ]
    assert strangers("dws_connections + dws_connections_closed_total{reason='x'}") == [
        "dws_connections"
    ]
    assert strangers('dws_connections_closed_total{reason="bored"}') == [
        'dws_connections_closed_total{reason="bored"}'
    ]
    assert strangers("dws_delivery_latency_seconds") == ["dws_delivery_latency_seconds"]


@each_alert
def test_alerts_say_what_happened_and_what_to_do(alert: dict[str, Any]) -> None:
    """A sentence, a longer one, and a link to the alert's own section, which has both parts."""
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in ("warning", "critical")
    page, _, anchor = notes["runbook_url"].rpartition("#")
    assert page.endswith("/monitoring.md")
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(MONITORING)
    section = text(MONITORING).partition(f"\n### {alert['alert']}\n")[2].partition("\n#")[0]
    assert "**Look**" in section
    assert "**Do**" in section


def test_every_runbook_has_its_alert() -> None:
    """No section is about an alert that is gone."""
    runbooks = text(MONITORING).partition(f"\n{RUNBOOKS}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", runbooks, re.MULTILINE) == list(ALERTS)
