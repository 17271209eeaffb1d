"""What the probes answer: `/health` for what a restart cures, `/ready` for the path of an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from daisi_ws.app.readiness import Readiness, State

DEPENDENCIES: Final = ("nats", "redis", "grpc")
DEAD_SECONDS: Final = 30.0
"""A server of our own that has not answered for this long will not answer again."""


class Health:
    """:class:`daisi_ws.app.gateway_ports.Probes` of one pod.

    :param readiness: the parts of the path.
    :param broken: each tells what only a restart cures; empty while all is well.
    """

    def __init__(
        self, pod_id: str, readiness: Readiness, broken: Sequence[Callable[[], str]] = ()
    ) -> None:
        self._pod_id = pod_id
        self._readiness = readiness
        self._broken = broken
        self._draining = False

    def drain(self) -> None:
        """Say NOT_READY from now on."""
        self._draining = True

    def health(self) -> tuple[int, dict[str, object]]:
        """See :meth:`Probes.health`: that this is answered shows that the loop turns."""
        broken = [] if self._draining else [said for tell in self._broken if (said := tell())]
        body: dict[str, object] = {"status": "DOWN" if broken else "UP", "pod": self._pod_id}
        if broken:
            body["problems"] = broken
        return (503 if broken else 200), body

    def ready(self) -> tuple[int, dict[str, object]]:
        """See :meth:`Probes.ready`."""
        states = self.states()
        problems = self._problems(states)
        body: dict[str, object] = {
            "status": "NOT_READY" if problems else "READY",
            "dependencies": {
                name: "connected" if up else "disconnected"
                for name, up in self.dependencies(states).items()
            },
            "pod": self._pod_id,
            "parts": {name: _told(state) for name, state in states.items()},
        }
        if problems:
            body["problems"] = problems
        return (503 if problems else 200), body

    def states(self) -> dict[str, State]:
        """Return each part's state by its name."""
        return self._readiness.states()

    def dependencies(self, states: dict[str, State]) -> dict[str, bool]:
        """Tell for each dependency whether all its parts are ready."""
        parts = self._readiness.dependencies
        return {
            name: all(states[part].ready for part in parts.get(name, ())) for name in DEPENDENCIES
        }

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by part; empty while READY."""
        return self._problems(self.states())

    def _problems(self, states: dict[str, State]) -> dict[str, str]:
        problems = {name: state.reason for name, state in states.items() if not state.ready}
        if self._draining:
            problems["drain"] = "this pod is going away"
        return problems


def dead_server(state: State, files_used_up: bool) -> str:
    """Tell whether a server of our own is beyond hope.

    Where files are used up it is not: a restart brings the same clients back.
    """
    if state.ready or state.age < DEAD_SECONDS or files_used_up:
        return ""
    return f"the gRPC server has not answered for {DEAD_SECONDS:g} s: {state.reason}"


def _told(state: State) -> dict[str, object]:
    told: dict[str, object] = {
        "status": "READY" if state.ready else "NOT_READY",
        "age": round(state.age, 2),
    }
    if state.reason:
        told["reason"] = state.reason
    return told
