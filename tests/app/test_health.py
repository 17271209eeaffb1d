"""What the probes answer."""

from __future__ import annotations

from daisi_ws.app.health import Health, Part


def test_ready_while_every_part_works() -> None:
    """200 and READY; a part that fails makes it 503 with its reason, and back."""
    problem = ""
    health = Health("pod-0-1", [Part("nats", lambda: problem), Part("redis", lambda: "")])
    assert health.ready() == (
        200,
        {
            "status": "READY",
            "dependencies": {"nats": "connected", "redis": "connected"},
            "pod": "pod-0-1",
        },
    )
    problem = "no connection"
    status, body = health.ready()
    assert status == 503
    assert body["status"] == "NOT_READY"
    assert body["dependencies"] == {"nats": "disconnected", "redis": "connected"}
    assert body["problems"] == {"nats": "no connection"}
    problem = ""
    assert health.ready()[0] == 200


def test_a_draining_pod_is_alive_and_not_ready() -> None:
    """Liveness does not follow readiness."""
    health = Health("pod-0-1", [])
    health.drain()
    assert health.ready()[0] == 503
    assert health.health()[0] == 200
