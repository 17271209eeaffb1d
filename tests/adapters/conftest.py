"""What several adapters are tested with; see also :mod:`tests.adapters.forwarding`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daisi_ws.adapters.peers_grpc import PeersGrpc
from daisi_ws.metrics import Metrics
from tests.adapters.forwarding import Addresses, Recorder, peers_of, serving


@pytest.fixture
def inbound() -> Recorder:
    """The receiver of pod B."""
    return Recorder()


@pytest.fixture
async def port(inbound: Recorder) -> AsyncIterator[int]:
    """The gRPC port of pod B."""
    async with serving(inbound) as (_, bound):
        yield bound


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of the pushing side."""
    return Metrics()


@pytest.fixture
async def peers(port: int, metrics: Metrics) -> AsyncIterator[PeersGrpc]:
    """The pushing side, which finds pod B."""
    async with peers_of(Addresses(b_0_1=port), metrics=metrics) as made:
        yield made
