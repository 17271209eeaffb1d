"""What the probes answer."""

from __future__ import annotations

from daisi_ws.app.health import Health, dead_server
from daisi_ws.app.readiness import PATIENCE_SECONDS, Clock, Readiness, State
from tests.app.test_readiness import Dependency, Time


def made(*parts: Dependency, time: Time | None = None) -> Health:
    """Return the health of a pod with these parts."""
    return Health("pod-0-1", Readiness(parts, [], Clock(time or Time())))


def test_ready_while_every_part_works() -> None:
    """200 and READY; a part that fails makes it 503 with its reason, and back."""
    time = Time()
    consumer = Dependency("consumer", "nats")
    health = made(Dependency("stream", "nats"), consumer, Dependency("reader"), time=time)
    well = {"status": "READY", "age": 0.0}
    assert health.ready() == (
        200,
        {
            "status": "READY",
            "dependencies": {"nats": "connected", "redis": "connected", "grpc": "connected"},
            "pod": "pod-0-1",
            "parts": {"stream": well, "consumer": well, "reader": well},
        },
    )
    consumer.problem = "gone"
    status, body = health.ready()
    assert (status, body["status"]) == (200, "READY")
    assert body["parts"] == {
        "stream": well,
        "consumer": {"status": "READY", "age": 0.0, "reason": "gone"},
        "reader": well,
    }
    time.passes(PATIENCE_SECONDS)
    status, body = health.ready()
    assert (status, body["status"]) == (503, "NOT_READY")
    assert body["dependencies"] == {
        "nats": "disconnected",
        "redis": "connected",
        "grpc": "connected",
    }
    assert body["problems"] == {"consumer": "gone"}
    assert body["parts"] == {
        "stream": well,
        "consumer": {"status": "NOT_READY", "age": PATIENCE_SECONDS, "reason": "gone"},
        "reader": well,
    }
    consumer.problem = ""
    assert health.ready()[0] == 200


def test_what_belongs_to_no_dependency_counts_too() -> None:
    """No reader: NOT_READY, with all dependencies connected."""
    status, body = made(Dependency("reader", problem="does not answer")).ready()
    assert status == 503
    assert body["dependencies"] == {"nats": "connected", "redis": "connected", "grpc": "connected"}


def test_a_draining_pod_is_alive_and_not_ready() -> None:
    """Liveness does not follow readiness."""
    health = made()
    health.drain()
    assert health.ready()[0] == 503
    assert health.problems() == {"drain": "this pod is going away"}
    assert health.health()[0] == 200


def test_what_only_a_restart_cures_ends_liveness() -> None:
    """503 with the reason; while it drains there is nothing to be cured."""
    health = Health("pod-0-1", Readiness([], [], Clock()), [lambda: "", lambda: "over"])
    assert health.health() == (503, {"status": "DOWN", "pod": "pod-0-1", "problems": ["over"]})
    health.drain()
    assert health.health()[0] == 200


def test_a_dead_server_is_one_that_has_not_answered_for_long() -> None:
    """But not if files are used up: a restart brings the same clients back."""
    assert not dead_server(State(True, 0.2, ""), files_used_up=False)
    assert not dead_server(State(False, 29.0, "hung up"), files_used_up=False)
    assert "hung up" in dead_server(State(False, 31.0, "hung up"), files_used_up=False)
    assert not dead_server(State(False, 31.0, "no connection"), files_used_up=True)
