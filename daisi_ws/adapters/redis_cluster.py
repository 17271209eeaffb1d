"""A Redis Cluster behind the interface of one connection: a link for each primary.

What is asked goes to the primary of its key's slot (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/).
Only what concerns one primary keeps its order and travels in one write; who needs an order over
several keys waits in between (see :attr:`ClusterLink.in_order`).

Everything counts as away while any primary is: routes, sessions and pods lie on all of them. When
the primaries are others than before, all that was known is void, as after any reconnect. Commands
are not redirected: one that meets a slot that has moved, or moves just then, is refused, and the
cluster is asked anew who has what.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from redis.crc import key_slot
from redis.exceptions import RedisError

from daisi_ws.adapters.redis_connect import RedisOpener, problem_of
from daisi_ws.adapters.redis_link import RedisLink, Script, failed, tell
from daisi_ws.adapters.redis_wire import Argument, Reply
from daisi_ws.app.waiting import end_tasks
from daisi_ws.domain.errors import Unavailable

SLOTS: Final = 16_384
_NO_NAME: Final = b"?"
"""What stands for a name that was to be preferred and is not known (CLUSTER SLOTS)."""

_LOOK_SECONDS: Final = 5.0
_LOOK_AGAIN_SECONDS: Final = 0.2

Address = tuple[str, int]

log = structlog.get_logger(__name__)


class ClusterLink:
    """Links to all primaries, kept up in the background; see :class:`RedisLink` for the calls."""

    in_order = False

    def __init__(self, opener: RedisOpener) -> None:
        self._opener = opener
        self._seeds = deque(opener.target.addresses)
        self._links: dict[Address, RedisLink] = {}
        self._slots: list[RedisLink | None] = [None] * SLOTS
        self._scripts: tuple[Script, ...] = ()
        self._on_connect: list[Callable[[RedisLink], None]] = []
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._on_push: dict[str, Callable[[list[Any]], None]] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._doubted = False
        self._up = asyncio.Event()
        self._problem = "not connected yet"
        self.down_since: float | None = None

    @property
    def up(self) -> bool:
        """Tell whether every slot has a primary that takes commands."""
        return self._up.is_set()

    @property
    def working(self) -> bool:
        """See :attr:`RedisLink.working`."""
        alive = self._keeper is None or not self._keeper.done()
        return alive and all(link.working for link in self._links.values())

    @property
    def problem(self) -> str:
        """Return why it is away."""
        down = (f"{a[0]}:{a[1]}: {link.problem}" for a, link in self._links.items() if not link.up)
        return next(down, self._problem)

    @property
    def server_run(self) -> str:
        """Return a name of the lives of all primaries together; another one after any failover."""
        runs = sorted(link.server_run for link in self._links.values())
        return hashlib.sha256("".join(runs).encode()).hexdigest()[:16]

    @property
    def nodes(self) -> Sequence[RedisLink]:
        """Return the links, one for each primary."""
        return tuple(self._links.values())

    def node_of(self, key: str) -> RedisLink:
        """Return the link to the primary that has a key.

        :raises Unavailable: it is not known.
        """
        link = self._slots[key_slot(key.encode())]
        if link is None:
            raise Unavailable(f"Redis is away: {self._problem}")
        return link

    def on_connect(self, callback: Callable[[RedisLink], None]) -> None:
        """See :meth:`RedisLink.on_connect`; for each primary."""
        self._on_connect.append(callback)
        for link in self._links.values():
            link.on_connect(callback)

    def on_up(self, callback: Callable[[], None]) -> None:
        """See :meth:`RedisLink.on_up`; when all are there."""
        self._on_up.append(callback)

    def on_down(self, callback: Callable[[], None]) -> None:
        """See :meth:`RedisLink.on_down`; for the loss of any of them, and before all are there."""
        self._on_down.append(callback)

    def on_push(self, kind: str, callback: Callable[[list[Any]], None]) -> None:
        """See :meth:`RedisLink.on_push`."""
        self._on_push[kind] = callback
        for link in self._links.values():
            link.on_push(kind, callback)

    def keep_loaded(self, *scripts: Script) -> None:
        """See :meth:`RedisLink.keep_loaded`."""
        self._scripts += scripts
        for link in self._links.values():
            link.keep_loaded(*scripts)

    def start(self) -> None:
        """Begin to connect in the background."""
        self.down_since = asyncio.get_running_loop().time()
        self._keeper = asyncio.create_task(self._keep(), name="redis cluster")

    async def wait_up(self) -> None:
        """Wait until all primaries are connected."""
        await self._up.wait()

    async def aclose(self) -> None:
        """End all connections; callers that wait get `Unavailable`."""
        await end_tasks(self._keeper)
        self._up.clear()
        self._slots = [None] * SLOTS
        links, self._links = self._links, {}
        await asyncio.gather(*(link.aclose() for link in links.values()))

    def send(self, *command: Argument) -> asyncio.Future[Reply]:
        """Send a command whose first argument is its only key (or channel).

        See :meth:`RedisLink.send`.
        """
        try:
            return self.node_of(str(command[1])).send(*command)
        except Unavailable as error:
            return failed(error)

    async def call(self, *command: Argument) -> Reply:
        """See :meth:`RedisLink.call`."""
        return await self.send(*command)

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> asyncio.Future[Reply]:
        """Run a Lua script; all its keys are of one slot."""
        try:
            return self.node_of(keys[0]).run(script, keys, args)
        except Unavailable as error:
            return failed(error)

    # -- who has what -----------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            try:
                await self._arrange(await self._asked())
            except Exception as error:  # noqa: BLE001 - whatever it was, the worker needs Redis
                self._problem = str(error) or type(error).__name__
            self._review()
            self._doubted = not self.up
            self._look.clear()
            try:
                async with asyncio.timeout(_LOOK_SECONDS if self.up else _LOOK_AGAIN_SECONDS):
                    await self._look.wait()
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            except TimeoutError:
                continue

    async def _asked(self) -> list[list[Any]]:
        """Ask any node which primaries there are, and which slots they have."""
        known = {*self._opener.target.addresses, *self._links}
        self._seeds = deque(a for a in dict.fromkeys((*self._seeds, *self._links)) if a in known)
        if self._doubted:
            # A node that is cut off from the others goes on telling what was.
            self._seeds.rotate(-1)
        problem = ""
        for _ in range(len(self._seeds)):
            host, port = self._seeds[0]
            connection = self._opener.server(host, port)
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("CLUSTER", "SLOTS")
                found = await connection.read_response(disable_decoding=True)
                covered = sum(last - first + 1 for first, last, *_ in found)
                unnamed = any(primary[0] == _NO_NAME for _, _, primary, *_ in found)
                if covered == SLOTS and not unnamed:
                    return list(found)
                problem = f"{host}:{port} knows primaries of {covered} slots of {SLOTS}"
                if unnamed:
                    problem = f"{host}:{port} knows no cluster-announce-hostname of a primary"
            except (RedisError, OSError) as error:
                problem = f"{host}:{port}: {problem_of(error)}"
            finally:
                await connection.disconnect(nowait=True)
            self._seeds.rotate(-1)
        raise Unavailable(f"no node tells of the whole cluster: {problem}")

    async def _arrange(self, ranges: list[list[Any]]) -> None:
        """Connect to the primaries that there are now, and leave the others."""
        owners: list[tuple[int, int, Address]] = []
        for first, last, primary, *_ in ranges:
            # A node that knows no name of itself means the one that was asked.
            host = primary[0].decode() if primary[0] else self._seeds[0][0]
            owners.append((int(first), int(last), (host, int(primary[1]))))
        present = {address for _, _, address in owners}
        slots: list[RedisLink | None] = [None] * SLOTS
        left = [self._links.pop(address) for address in self._links.keys() - present]
        for address in present - self._links.keys():
            self._links[address] = self._connected_to(address)
        for first, last, address in owners:
            slots[first : last + 1] = [self._links[address]] * (last - first + 1)
        if slots != self._slots:
            log.info("redis cluster", primaries=sorted(f"{h}:{p}" for h, p in present))
            self._slots = slots
            self._went_down("the primaries are others")
        await asyncio.gather(*(link.aclose() for link in left))

    def _connected_to(self, address: Address) -> RedisLink:
        link = RedisLink(lambda: self._opener.server(*address), self._opener.timeout)
        link.keep_loaded(*self._scripts)
        for kind, handle in self._on_push.items():
            link.on_push(kind, handle)
        for callback in self._on_connect:
            link.on_connect(callback)
        link.on_up(self._review)
        link.on_down(lambda: self._went_down("a primary is lost"))
        link.on_refused(self._refused)
        link.start()
        return link

    def _review(self) -> None:
        """Be up when everybody is."""
        if self.up or None in self._slots or not all(link.up for link in self._links.values()):
            return
        # Meanwhile the other primaries answered, so who asked may think it knows where it stands:
        # only now can what the new primary has been told (or not) be looked at.
        tell(self._on_down)
        self._up.set()
        self.down_since = None
        tell(self._on_up)

    def _went_down(self, problem: str) -> None:
        self._problem = problem
        self._look.set()
        if self.up:
            self._up.clear()
            self.down_since = asyncio.get_running_loop().time()
            tell(self._on_down)

    def _refused(self, error: RedisError) -> None:
        """Look anew who has what, if a node says that it is not (or not only) itself."""
        if type(error).__name__ in _MOVES:
            self._doubted = True
            self._look.set()


_MOVES: Final = ("MovedError", "AskError", "TryAgainError", "ClusterDownError")


def redis_link(opener: RedisOpener) -> RedisLink | ClusterLink:
    """Return what an address needs."""
    if opener.target.kind == "cluster":
        return ClusterLink(opener)
    return RedisLink(opener.primary, opener.timeout)
