"""What the probes answer: `/health` for what a restart cures, `/ready` for the path of an event."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the path from the stream to a socket.

    :param name: which dependency it is.
    :param problem: asks the part; empty while it works.
    """

    name: str
    problem: Callable[[], str]


class Health:
    """:class:`daisi_ws.app.gateway_ports.Probes` of one pod.

    :param parts: asked for each probe; cheap.
    """

    def __init__(self, pod_id: str, parts: Sequence[Part]) -> None:
        self._pod_id = pod_id
        self._parts = parts
        self._draining = False

    def drain(self) -> None:
        """Say NOT_READY from now on."""
        self._draining = True

    def health(self) -> tuple[int, dict[str, object]]:
        """See :meth:`Probes.health`: that this is answered shows that the loop turns."""
        return 200, {"status": "UP", "pod": self._pod_id}

    def ready(self) -> tuple[int, dict[str, object]]:
        """See :meth:`Probes.ready`."""
        problems = self.problems()
        body: dict[str, object] = {
            "status": "NOT_READY" if problems else "READY",
            "dependencies": {
                part.name: "disconnected" if part.name in problems else "connected"
                for part in self._parts
            },
            "pod": self._pod_id,
        }
        if problems:
            body["problems"] = problems
        return (503 if problems else 200), body

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by part; empty while READY."""
        asked = {part.name: part.problem() for part in self._parts}
        problems = {name: problem for name, problem in asked.items() if problem}
        if self._draining:
            problems["drain"] = "this pod is going away"
        return problems
