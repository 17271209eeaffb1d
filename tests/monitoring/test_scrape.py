"""A real Prometheus scrapes a real host: every metric is there, and says what really happened."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from daisi_ws.embedded import free_ports
from tests.e2e.tabs import (
    Gateway,
    NotUpgraded,
    Tab,
    admin_headers,
    answer,
    close_tabs,
    gateway,
    refusal,
    user_headers,
)
from tests.monitoring.dashboard import panels
from tests.monitoring.prometheus import (
    HOST,
    Prometheus,
    product_metrics,
    prometheus,
    strangers,
)
from tests.tools import tool

WORKERS: Final = 2
COMES_WITH_TLS = {"dws_certificate_expiry_seconds"}
COMES_WITH_TRAFFIC: Final = {"dws_grpc_messages_sent_total", "dws_build_info"}
"""Metrics without a series until a pod is pushed to, or a worker runs."""


with_time = pytest.mark.timeout(180)


@asynccontextmanager
async def scraped(folder: Path) -> AsyncIterator[tuple[Gateway, Prometheus]]:
    """Run a gateway of two workers, with a port for metrics, that a Prometheus scrapes."""
    tool("prometheus")
    port = free_ports(1)
    environment = {
        "DAISI_WS_SERVER_METRICS_PORT": str(port),
        "DAISI_WS_SERVER_METRICS_HOST": HOST,
        # A worker that gets no processor time for a moment stays the reader: counts are exact.
        "DAISI_WS_NATS_PRIORITY_TIMEOUT_SECONDS": "20",
    }
    async with (
        gateway(folder / "gateway", workers=WORKERS, environment=environment) as running,
        prometheus(folder / "prometheus", [f"{HOST}:{port}"]) as watching,
    ):
        try:
            await watching.until({"sum(dws_ready)": {"": WORKERS}, "count(up == 1)": {"": 1}})
            yield running, watching
        finally:
            await close_tabs()


def by(label: str, metric: str) -> str:
    """Return the query for a metric's sums by a label, without those that are 0."""
    return f"sum by ({label}) ({metric}) > 0"


async def enter(on: Gateway) -> list[Tab]:
    """Let three users in, one of whom looks at a chat, and two admins."""
    users = [await on.user(user=f"user-{n}") for n in range(3)]
    admins = [await on.admin(f"admin-{n}") for n in range(2)]
    await users[0].select_chat("chat-1")
    return [*users, *admins]


async def publish(on: Gateway, tabs: list[Tab]) -> None:
    """Publish 5 chats, 3 messages, 4 agents, 2 events for nobody, and 6 that are no events."""
    async with on.feed() as feed:
        for _ in range(5):
            last_chat = await feed.put("websocket.acme.bot.chats")
        for _ in range(3):
            await feed.put("websocket.acme.bot.messages.chat-1")
        for _ in range(4):
            last_agent = await feed.put("websocket.acme.bot.agents")
        for _ in range(2):
            await feed.put("websocket.nobody.there.chats")
        await feed.raw("websocket.acme.bot.chats", b"no json")
        await feed.raw("websocket.acme.bot.chats", b"{}")
        await feed.raw("websocket.acme.bot.chats", b"{}")
        await feed.raw("websocket.acme.bot.chats", b'"\xff"')
        await feed.raw("websocket.acme.bot.nonsense", b"{}")
        await feed.put("websocket.acme.bot.chats", company_id="other")
    for tab in tabs[:3]:
        await tab.got(last_chat)
    for tab in tabs[3:]:
        await tab.got(last_agent)


async def be_refused(on: Gateway) -> None:
    """Come with wrong keys and tokens, one of each kind."""
    port, keys, path = on.host.http_port, on.keys, "/ws/acme/bot"
    good = keys.user_token("acme", "bot", "refused")
    forged = good[:60] + ("A" if good[60] != "A" else "B") + good[61:]
    cases = [
        {},
        {**user_headers(keys, good), "X-API-Key": "wrong"},
        {**user_headers(keys, good), "X-API-Key": "wrong too"},
        {"X-API-Key": keys.secret_token},
        user_headers(keys, "nonsense"),
        user_headers(keys, forged),
        user_headers(keys, keys.user_token("acme", "bot", "late", -10)),
        user_headers(keys, keys.user_token("acme", "other", "elsewhere")),
        user_headers(keys, keys._encode(keys.token_aes_key, {"company_id": "acme"}, 60)),
    ]
    for headers in cases:
        assert (await refusal(port, path, headers)).status in (401, 403)
    assert (await refusal(port, "/ws/admin", {})).status == 401


async def collide(on: Gateway, tabs: list[Tab]) -> Tab:
    """Connect a user once more, which ends the older tab, and an admin, which is refused."""
    newer = await on.user(user="user-2")
    await tabs[2].end()
    again = admin_headers(on.keys, on.keys.admin_token("admin-1"))
    with pytest.raises(NotUpgraded) as refused:
        await Tab.dial(on.host.http_port, "/ws/admin", again)
    assert refused.value.response.status == 409
    return newer


async def talk(tab: Tab) -> None:
    """Send two messages that are none."""
    tab.send({"type": "nonsense"})
    await tab.next("error")
    tab.send("nonsense")
    await tab.next("error")


EXPECTED: Final[dict[str, dict[str, float]]] = {
    "sum by (type) (dws_active_connections)": {"type=user": 2, "type=admin": 1},
    "sum by (type) (dws_connections_total)": {"type=user": 4, "type=admin": 2},
    by("reason", "dws_connections_closed_total"): {
        "reason=displaced": 1,
        "reason=client_left": 2,
    },
    "sum(dws_connection_duration_seconds_count)": {"": 3},
    by("type", "dws_messages_sent_total"): {
        "type=event": 5 * 3 + 3 + 4 * 2,
        "type=ready": 6,
        "type=error": 2,
    },
    by("kind", 'dws_messages_received_total{kind!="pong"}'): {
        "kind=select_chat": 1,
        "kind=invalid": 2,
    },
    "sum(dws_websocket_messages_dropped_total)": {"": 0},
    "sum(dws_websocket_buffer_capacity)": {"": 3 * 100},
    "sum(dws_websocket_buffer_used_count)": {"": 0},
    "sum(dws_slow_clients)": {"": 0},
    by("type", "dws_auth_success_total"): {"type=user": 4, "type=admin": 3},
    by("type, reason", "dws_auth_failure_total"): {
        "reason=missing_key,type=user": 1,
        "reason=missing_key,type=admin": 1,
        "reason=wrong_key,type=user": 2,
        "reason=missing,type=user": 1,
        "reason=malformed,type=user": 1,
        "reason=forged,type=user": 1,
        "reason=expired,type=user": 1,
        "reason=wrong_path,type=user": 1,
        "reason=bad_content,type=user": 1,
    },
    # Who holds a lock on the same worker is found without asking for it: the second admin-1 may be.
    "sum(dws_session_lock_attempts_total{lock_type='initial', user_type='user'})": {"": 4},
    "sum(dws_session_lock_attempts_total{lock_type='initial', user_type='admin'}) >= bool 2": {
        "": 1
    },
    "sum(dws_session_lock_success_total)": {"": 6},
    by("reason", "dws_session_lock_failure_total"): {"reason=conflict": 1},
    by("type", "dws_session_conflicts_total"): {"type=user": 1, "type=admin": 1},
    by("event_type", "dws_events_received_total"): {
        "event_type=chat": 7,
        "event_type=message": 3,
        "event_type=agent": 4,
    },
    "sum(dws_events_without_audience_total)": {"": 2},
    # Who becomes the reader reads for itself what the consumer gives it once more.
    "sum(dws_redeliveries_total) <= bool 20": {"": 1},
    by("reason", "dws_dead_letters_total"): {
        "reason=bad_json": 1,
        "reason=bad_field": 2,
        "reason=not_utf8": 1,
        "reason=bad_subject": 1,
        "reason=ids_contradict": 1,
    },
    "sum(dws_delivery_latency_seconds_count)": {"": 5 * 3 + 3 + 4 * 2},
    "sum(dws_grpc_messages_sent_total) - sum(dws_grpc_messages_received_total)": {"": 0},
    "sum(dws_reader)": {"": 1},
    "sum(dws_reader_takeovers_total)": {"": 1},
    "max(dws_stream_lag_events)": {"": 0},
    "sum(dws_workers)": {"": WORKERS},
    "sum(dws_ready)": {"": WORKERS},
    "min by (dependency) (dws_dependency_up)": {
        "dependency=nats": 1,
        "dependency=redis": 1,
        "dependency=grpc": 1,
    },
    "sum(dws_worker_deaths_total)": {"": 0},
    "sum(dws_draining)": {"": 0},
}


@with_time
async def test_every_metric_tells_what_happened(tmp_path: Path) -> None:
    """Known connections, events, deliveries and failures of each kind are counted exactly."""
    async with scraped(tmp_path) as (on, watching):
        tabs = await enter(on)
        await publish(on, tabs)
        await be_refused(on)
        newer = await collide(on, tabs)
        await talk(newer)
        for leaving in (tabs[1], tabs[4]):
            await leaving.close()
        await watching.until(EXPECTED)
        await everything_is_described(watching)
        assert (await answer(on.host.http_port, "GET", "/metrics")).status == 404


async def everything_is_described(watching: Prometheus) -> None:
    """Check that each metric is there with its type and a help text, and says its unit."""
    told = await watching.api("metadata")
    series = {labels["__name__"] for labels in await watching.series()}
    for name, known in product_metrics().items():
        if name in COMES_WITH_TLS and name not in told:
            continue
        (described,) = told[name]
        assert described["type"] == known.type
        assert described["help"] == known.help
        assert ("in seconds" in known.help) == ("_seconds" in name)
        assert ("in bytes" in known.help) == ("_bytes" in name)
        shown = f"{name}_bucket" if known.type == "histogram" else name
        assert shown in series or name in COMES_WITH_TRAFFIC, name
    assert not {name for name in series if strangers(name)}


@with_time
async def test_clients_make_no_series_and_killed_workers_leave_none(tmp_path: Path) -> None:
    """Whoever comes, the series stay the same; queries and alerts find what they ask for."""
    async with scraped(tmp_path) as (on, watching):
        for name in "ab":
            tabs = [await on.user(f"co-{name}-{n}", user=f"{name}-{n}") for n in range(10)]
            async with on.feed() as feed:
                for n, tab in enumerate(tabs):
                    await tab.select_chat(f"chat-{name}-{n}")
                    await tab.got(await feed.put(f"websocket.co-{name}-{n}.bot.chats"))
            sent = 10 if name == "a" else 20
            await watching.until({'sum(dws_messages_sent_total{type="event"})': {"": sent}})
            found = await watching.series()
            if name == "a":
                before = found
        assert names(found) == names(before)
        values = {value for labels in found for value in labels.values()}
        assert not [v for v in values if v.startswith(("co-", "a-", "b-", "chat-")) and v != "chat"]
        await dashboard_finds_data(watching)
        os.kill(min(on.host.worker_pids()), signal.SIGKILL)
        alert = 'count(ALERTS{alertname="DwsWorkerDied",alertstate="firing"})'
        await watching.until({"sum(dws_worker_deaths_total)": {"": 1}, alert: {"": 1}})
        await watching.until({"sum(dws_ready)": {"": WORKERS}, "count(dws_ready)": {"": 1}})
        assert names(await watching.series()) == names(before)
        await rules_work(watching)


def names(series: list[dict[str, str]]) -> set[str]:
    """Return series as text, but for who was pushed to: that may be either worker."""
    return {
        str(sorted(labels.items()))
        for labels in series
        if labels["__name__"] != "dws_grpc_messages_sent_total"
    }


MAY_BE_EMPTY: Final = {"Pushed and received", "Route cache"}
"""Panels whose first query needs a push from worker to worker, which chance decides."""


async def dashboard_finds_data(watching: Prometheus) -> None:
    """Check that Prometheus understands all queries, and that each panel shows something."""
    for panel in panels():
        for number, query in enumerate(panel.queries):
            found = await watching.query(query.filled("1m"))
            filtered = query.expression.endswith("> 0")
            if number == 0 and not filtered and panel.title not in MAY_BE_EMPTY:
                assert found, f"{panel.title}: {query.expression} finds nothing"


async def rules_work(watching: Prometheus) -> None:
    """Check that all rules were evaluated without an error."""
    groups = (await watching.api("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 15
    assert not [rule for rule in rules if rule["health"] == "err"]
    for alert in (alert for rule in rules for alert in rule.get("alerts", ())):
        assert "error" not in str(alert["annotations"])
