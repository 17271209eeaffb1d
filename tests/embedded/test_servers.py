"""Both servers together."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import redis

from daisi_ws.embedded import EmbeddedServerError, Servers
from tests.processes import children


def test_both_are_up_within_a_second(tmp_path: Path) -> None:
    """They start at the same time; stopped, nothing is left."""
    before = time.monotonic()
    with Servers(base=tmp_path) as servers:
        assert time.monotonic() - before < 1.0
        assert servers.running
        assert servers.redis.probe(5.0)
        assert servers.nats.probe(5.0)
    assert not servers.running
    assert list(tmp_path.iterdir()) == []


def test_a_given_folder_keeps_the_data(tmp_path: Path) -> None:
    """The next run goes on where this one stopped."""
    for expected in (None, b"value"):
        with (
            Servers(tmp_path) as servers,
            redis.Redis.from_url(servers.redis.url) as connection,
        ):
            assert connection.get("key") == expected
            connection.set("key", "value")


def test_when_one_cannot_start_neither_is_left(tmp_path: Path) -> None:
    """Half a pair is of no use."""
    before = children()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(EmbeddedServerError, match="nats-server cannot listen"),
    ):
        Servers(base=tmp_path, nats_port=listener.getsockname()[1]).start()
    assert children() == before
    assert list(tmp_path.iterdir()) == []
