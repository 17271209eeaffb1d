"""What the load process is asked, and what it answers: JSON, a line each."""

from __future__ import annotations

import msgspec


class Who(msgspec.Struct, omit_defaults=True):
    """One client to be connected.

    :param head: the upgrade request, as text.
    :param chat: to be selected after `ready`; empty for none.
    :param wants: indexes of the subjects whose events it is to get.
    """

    host: str
    port: int
    head: str
    chat: str = ""
    wants: list[int] = []


class Connect(msgspec.Struct, tag="connect"):
    """Connect clients, `at_once` at a time."""

    clients: list[Who]
    processes: dict[str, list[int]]
    at_once: int = 50
    timeout: float = 20.0


class Run(msgspec.Struct, tag="run"):
    """Publish to subjects in turn and account for what the clients get.

    :param subjects: subject and the JSON of the payload after `event_id`, its closing brace
        included.
    :param settle: seconds to wait at most for what is missing after the last event.
    """

    nats_host: str
    nats_port: int
    subjects: list[tuple[str, str]]
    rate: float
    seconds: float
    processes: dict[str, list[int]]
    warm_seconds: float = 0.5
    settle: float = 20.0
    alike: bool = False


class Missed(msgspec.Struct, tag="missed"):
    """Account for the events of the last run with the clients that there are now: they were away
    then, and come back for what they missed.
    """

    settle: float = 20.0


class Idle(msgspec.Struct, tag="idle"):
    """Do nothing but answer pings for `seconds`, and look at the processes."""

    seconds: float
    processes: dict[str, list[int]]


class Positions(msgspec.Struct, tag="positions"):
    """Return each client's `stream` and `seq` of `ready`."""


class Drop(msgspec.Struct, tag="drop"):
    """Abort all connections and forget the clients."""


class Quit(msgspec.Struct, tag="quit"):
    """End."""


Order = Connect | Run | Missed | Idle | Positions | Drop | Quit


class Connected(msgspec.Struct, tag="connected"):
    """How connecting went.

    :param ready_ms: of each client, from before TCP connect to `ready` (or `done`) read.
    :param pods: how many clients each pod got, by its `X-Daisi-Pod`.
    :param recovered: how many were told that they missed nothing.
    """

    ready_ms: list[float]
    seconds: float
    cpu: dict[str, float]
    failed: int
    problem: str
    pods: dict[str, int]
    recovered: int


class Ran(msgspec.Struct, tag="ran"):
    """What came of a run. Latencies in ms, from before the publish to bytes read; CPU in seconds.

    :param deliveries: in the measured window, and `expected` of it.
    :param lost, doubled, disordered, foreign: of all events of the run, warm-up included.
    :param behind_seconds: from the last publish until everything (or `settle`) was over.
    :param late_seconds: how much longer than meant publishing took.
    """

    published: int
    deliveries: int
    expected: int
    lost: int
    doubled: int
    disordered: int
    foreign: int
    told_dropped: int
    ended: int
    latency: dict[str, float]
    cpu: dict[str, float]
    load_cpu: float
    window_seconds: float
    behind_seconds: float
    late_seconds: float
    problem: str


class Caught(msgspec.Struct, tag="caught"):
    """What the clients got of the events that they had missed."""

    expected: int
    lost: int
    doubled: int
    disordered: int
    foreign: int


class Idled(msgspec.Struct, tag="idled"):
    """CPU seconds used in `seconds`, and the proportional set size in bytes at the end."""

    cpu: dict[str, float]
    pss: dict[str, int]
    seconds: float
    ended: int


class Placed(msgspec.Struct, tag="placed"):
    """Stream and sequence of each client's `ready`."""

    positions: list[tuple[str, int]]


class Done(msgspec.Struct, tag="done"):
    """Nothing to tell."""


class Trouble(msgspec.Struct, tag="trouble"):
    """The order failed."""

    problem: str


Answer = Connected | Ran | Caught | Idled | Placed | Done | Trouble
