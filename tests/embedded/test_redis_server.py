"""The real redis-server, through its life."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis

from daisi_ws.embedded import EmbeddedServerError, RedisServer


def client(server: RedisServer, timeout: float = 5.0) -> redis.Redis:
    """Return a client that neither retries nor waits for long."""
    return redis.Redis.from_url(server.url, socket_timeout=timeout, retry=None)


def test_it_serves_on_loopback_only(fresh_redis: RedisServer) -> None:
    """It answers at its address, which is not reachable from outside."""
    with client(fresh_redis) as connection:
        assert connection.ping()
        assert connection.config_get("bind") == {"bind": "127.0.0.1"}
        assert connection.config_get("protected-mode") == {"protected-mode": "yes"}
        assert connection.info("server")["process_id"] == fresh_redis.pid
    assert fresh_redis.address == f"127.0.0.1:{fresh_redis.port}"


def test_a_restart_keeps_the_port_and_forgets_the_data(fresh_redis: RedisServer) -> None:
    """Without append-only file a restart is an empty Redis at the same address."""
    port, pid = fresh_redis.port, fresh_redis.pid
    with client(fresh_redis) as connection:
        connection.set("key", "value")
    fresh_redis.restart()
    with client(fresh_redis) as connection:
        assert connection.get("key") is None
    assert fresh_redis.port == port
    assert fresh_redis.pid != pid


def test_appendonly_keeps_the_data_over_a_crash(tmp_path: Path) -> None:
    """What was written through is there after SIGKILL."""
    with RedisServer(tmp_path, appendonly=True) as server:
        with client(server) as connection:
            connection.set("key", "value")
            connection.execute_command("WAITAOF", 1, 0, 0)
        server.kill()
        assert not server.running
        server.start()
        with client(server) as connection:
            assert connection.get("key") == b"value"


def test_a_paused_server_keeps_its_sockets_and_answers_later(fresh_redis: RedisServer) -> None:
    """Frozen, it accepts but does not answer; resumed, it answers what it was asked."""
    with socket.create_connection(("127.0.0.1", fresh_redis.port)) as connection:
        fresh_redis.pause()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(7)
        fresh_redis.resume()
        connection.settimeout(5)
        assert connection.recv(7) == b"+PONG\r\n"


def test_arguments_reach_the_server(tmp_path: Path) -> None:
    """More options can be given."""
    with (
        RedisServer(tmp_path, arguments=("--maxclients", "17")) as server,
        client(server) as connection,
    ):
        assert connection.config_get("maxclients") == {"maxclients": "17"}


def test_bad_arguments_are_told_with_the_log(tmp_path: Path) -> None:
    """A server that ends at once is reported with its own words, and nothing is left running."""
    server = RedisServer(tmp_path, arguments=("--maxclients", "many"))
    with pytest.raises(EmbeddedServerError, match="exit code 1") as caught:
        server.start()
    assert "argument couldn't be parsed into an integer" in caught.value.log
    assert not server.running
