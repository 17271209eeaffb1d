"""A host that the tests of a file share, on the file's own loop."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from tests.e2e.tabs import Gateway, close_tabs, gateway

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _host_of_the_file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    environment: Mapping[str, str] = getattr(request.module, "ENVIRONMENT", {})
    folder = tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2])
    async with gateway(folder, environment=environment) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def running(_host_of_the_file: Gateway) -> AsyncIterator[Gateway]:
    """One host of two workers, with the `ENVIRONMENT` of the file if it has one; the test's tabs
    are closed after it."""
    yield _host_of_the_file
    await close_tabs()


@pytest.fixture
def name() -> str:
    """The name of a user, an admin, an agent or an event that no other test has."""
    return f"name-{next(_numbers)}"
