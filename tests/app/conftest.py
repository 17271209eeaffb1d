"""Pods for tests of what happens between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.app.pods import InProcessPod, pod


@pytest.fixture
async def pods(redis_url: str, nats_url: str) -> AsyncIterator[list[InProcessPod]]:
    """Two pods on the emptied servers; neither reads yet."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(pod(redis_url, nats_url, name)) for name in ("a", "b")
        ]
