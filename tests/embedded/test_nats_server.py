"""The real nats-server with JetStream, through its life."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import nats
import pytest

from daisi_ws.embedded import EmbeddedServerError, NatsServer


async def test_a_stream_survives_a_crash(fresh_nats: NatsServer) -> None:
    """After SIGKILL the server comes back at the same port with its streams."""
    client = await nats.connect(fresh_nats.url)
    await client.jetstream().add_stream(name="events", subjects=["events.>"])
    await client.jetstream().publish("events.a", b"1")
    await client.close()
    port = fresh_nats.port
    fresh_nats.kill()
    fresh_nats.start()
    assert fresh_nats.port == port
    client = await nats.connect(fresh_nats.url)
    info = await client.jetstream().stream_info("events")
    await client.close()
    assert info.state.messages == 1


def test_the_monitor_answers(fresh_nats: NatsServer) -> None:
    """Monitoring is served on loopback, by the same server."""
    with urllib.request.urlopen(f"{fresh_nats.monitor_url}/varz", timeout=5) as reply:
        said = json.load(reply)
    assert (said["host"], said["port"]) == ("127.0.0.1", fresh_nats.port)
    assert said["http_host"] == "127.0.0.1"
    assert Path(said["jetstream"]["config"]["store_dir"]).parent == fresh_nats.folder


async def test_configuration_lines_reach_the_server(tmp_path: Path) -> None:
    """More settings can be given."""
    with NatsServer(tmp_path, config="max_payload: 2KB") as server:
        client = await nats.connect(server.url)
        assert client.max_payload == 2048
        await client.close()


def test_bad_configuration_is_told_with_the_log(tmp_path: Path) -> None:
    """A server that ends at once is reported with its own words."""
    server = NatsServer(tmp_path, config="no_such_setting: 1")
    with pytest.raises(EmbeddedServerError, match="no_such_setting"):
        server.start()
    assert not server.running
