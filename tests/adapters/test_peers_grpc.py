"""Pushing to peers over real gRPC on loopback."""

from __future__ import annotations

import asyncio
import random

from tests.adapters.forwarding import Addresses, Recorder, item, peers_of, serving, until


async def test_everything_arrives_once_and_in_order() -> None:
    """20,000 events pushed in bursts of random size arrive whole, once, and in order."""
    inbound, dice = Recorder(), random.Random(5)
    async with serving(inbound) as (_, port), peers_of(Addresses(b_0_1=port)) as peers:
        seq = 0
        while seq < 20_000:
            for _ in range(min(dice.choice((1, 3, 50, 700)), 20_000 - seq)):
                seq += 1
                peers.push("b-0-1", item(seq, bytes(dice.randrange(2000))))
            await asyncio.sleep(0)
        assert peers.floor() is not None
        await until(lambda: peers.floor() is None)
    assert inbound.arrived == list(range(1, 20_001))
    assert inbound.items[0].request_id == "r1"
