"""Runs a gateway with traffic, a Prometheus beside it, and draws the dashboard from what it saw.

`scripts/dashboard --minutes 3 --picture docs/images/dashboard.svg`
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.e2e.tabs import (
    Feed,
    Gateway,
    NotUpgraded,
    Tab,
    close_tabs,
    gateway,
    refusal,
    user_headers,
)
from tests.monitoring.picture import picture
from tests.monitoring.prometheus import HOST, prometheus

HOSTS, WORKERS, USERS = 2, 2, 120


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(prog="scripts/dashboard", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--picture", type=Path, required=True)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        drawn = asyncio.run(watch(Path(name), wanted.minutes * 60))
    wanted.picture.write_text(drawn)


async def watch(folder: Path, seconds: float) -> str:
    """Make traffic for so many seconds, then draw."""
    async with gateway(folder / "gateway", hosts=HOSTS, workers=WORKERS) as running:
        targets = [f"{HOST}:{host.http_port}" for host in running.hosts]
        async with prometheus(folder / "prometheus", targets) as watching:
            began = time.time()
            await traffic(running, seconds)
            return await picture(watching, began + 5, time.time())


async def traffic(on: Gateway, seconds: float) -> None:
    """Connect users and admins, publish to them, and let some things go wrong."""
    chance = random.Random(7)
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(come_and_go(on, end, chance))
        tasks.create_task(publish(on, end, chance))
        tasks.create_task(be_refused(on, end, chance))
        tasks.create_task(roll(on, seconds))
    await close_tabs()


async def come_and_go(on: Gateway, end: float, chance: random.Random) -> None:
    """Hold a number of clients that changes, some of whom look at a chat."""
    tabs: list[Tab] = []
    number = 0
    while time.monotonic() < end:
        tabs = [tab for tab in tabs if tab.code is None]
        if len(tabs) < USERS or chance.random() < 0.5:
            number += 1
            host = number % HOSTS
            try:
                if number % 12 == 0:
                    tab = await on.admin(f"admin-{number}", host)
                else:
                    tab = await on.user(user=f"user-{chance.randrange(USERS * 3)}", host=host)
                    if chance.random() < 0.4:
                        tab.send(
                            {"type": "select_chat", "payload": {"chat_id": f"chat-{number % 5}"}}
                        )
                tabs.append(tab)
            except (NotUpgraded, AssertionError, ConnectionError):
                continue
        elif tabs:
            await leave_and_return(on, tabs, tabs.pop(chance.randrange(len(tabs))), chance)
        await asyncio.sleep(0.05 if len(tabs) < USERS else 0.3)


async def leave_and_return(on: Gateway, tabs: list[Tab], tab: Tab, chance: random.Random) -> None:
    """Close a tab; one of three comes back with its position."""
    await tab.close()
    seqs = [frame.seq for frame in tab.events if frame.seq is not None]
    if not seqs or chance.random() > 0.33:
        return
    headers = user_headers(on.keys, on.keys.user_token("acme", "bot", f"back-{len(seqs)}"))
    port = chance.choice(on.hosts).http_port
    tabs.append(await Tab.open(port, f"/ws/acme/bot?last_seq={seqs[-1]}", headers))


async def publish(on: Gateway, end: float, chance: random.Random) -> None:
    """Publish at a rate that rises and falls, with something that is no event now and then."""
    async with on.feed() as feed:
        while time.monotonic() < end:
            await one_event(feed, chance)
            burst = 0.25 if (end - time.monotonic()) % 60 < 20 else 1.0
            await asyncio.sleep(0.02 * burst * (0.5 + chance.random()))


async def one_event(feed: Feed, chance: random.Random) -> None:
    """Publish one of the kinds."""
    kind = chance.random()
    if kind < 0.45:
        await feed.put("websocket.acme.bot.chats")
    elif kind < 0.85:
        await feed.put(f"websocket.acme.bot.messages.chat-{chance.randrange(5)}")
    elif kind < 0.97:
        await feed.put("websocket.acme.bot.agents")
    elif kind < 0.99:
        await feed.put("websocket.nobody.there.chats")
    else:
        await feed.raw("websocket.acme.bot.chats", b"no json")


async def be_refused(on: Gateway, end: float, chance: random.Random) -> None:
    """Come with a bad key or an expired token now and then."""
    expired = on.keys.user_token("acme", "bot", "late", -10)
    while time.monotonic() < end:
        headers = {"X-API-Key": on.keys.secret_token, "Authorization": f"Bearer {expired}"}
        await refusal(on.host.http_port, "/ws/acme/bot", headers if chance.random() < 0.7 else {})
        await asyncio.sleep(1 + chance.random())


async def roll(on: Gateway, seconds: float) -> None:
    """Replace the workers of one host in the middle."""
    await asyncio.sleep(seconds * 0.6)
    on.hosts[1].signal(signal.SIGUSR2)


main()
