"""What every implementation of the Locks port must do, whatever it is made of."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from daisi_ws.app.ports import Acquired, Held, Locks

KEY = "session:acme:bot:ann"
A, B, C = "pod-a-0-1#1", "pod-b-0-1#2", "pod-c-0-1#3"
TTL = 30.0


class World(ABC):
    """The locks under test, and a hand on the state behind them."""

    locks: Locks

    @abstractmethod
    async def lease(self, pod_id: str) -> None:
        """Give a pod a lease."""

    @abstractmethod
    async def holder(self, key: str) -> str | None:
        """Return who has a lock."""

    @abstractmethod
    async def seconds_left(self, key: str) -> float:
        """Return how long a lock lasts without renewal."""

    @abstractmethod
    async def expire(self, key: str) -> None:
        """Let a lock end as if its time were up."""

    @abstractmethod
    async def lose_everything(self) -> None:
        """Lose all state, as a server does that comes back empty."""

    @abstractmethod
    async def set_by_older_pod(self, key: str, pod_id: str) -> None:
        """Have a pod of the older service take a lock, in its way."""

    async def fence(self, owner: str, key: str = KEY) -> int:
        """Acquire a lock that can be acquired, and return its number."""
        got = await self.locks.acquire(key, owner, TTL)
        assert isinstance(got, Acquired)
        return got.fence


class LocksConformance:
    """The suite; subclasses provide the fixture `world`."""

    async def test_free_lock_is_taken(self, world: World) -> None:
        """A free lock is the first caller's, for the time it asked."""
        await world.fence(A)
        assert await world.holder(KEY) == A
        assert TTL - 2 < await world.seconds_left(KEY) <= TTL

    async def test_owner_is_recognised_as_itself(self, world: World) -> None:
        """Asking again with the same owner gives the same number, not a conflict with oneself."""
        number = await world.fence(A)
        assert await world.fence(A) == number
        assert await world.locks.take(KEY, B, A, TTL) == Acquired(number)

    async def test_held_lock_names_its_holder(self, world: World) -> None:
        """Another's lock is left alone; the answer says whose it is and whether its pod lives."""
        await world.fence(A)
        assert await world.locks.acquire(KEY, B, TTL) == Held(A, alive=False)
        await world.lease("pod-a-0-1")
        assert await world.locks.acquire(KEY, B, TTL) == Held(A, alive=True)
        assert await world.holder(KEY) == A

    async def test_lease_of_another_pod_does_not_count(self, world: World) -> None:
        """Only the holder's own pod makes it alive, not one whose name begins alike."""
        await world.fence(A)
        await world.lease("pod-a-0")
        await world.lease("pod-a-0-11")
        assert await world.locks.acquire(KEY, B, TTL) == Held(A, alive=False)

    async def test_older_pod_is_a_holder(self, world: World) -> None:
        """A lock value without connection is reported as it is, and can be taken."""
        await world.set_by_older_pod(KEY, "old-pod")
        assert await world.locks.acquire(KEY, A, TTL) == Held("old-pod", alive=False)
        assert isinstance(await world.locks.take(KEY, "old-pod", A, TTL), Acquired)

    async def test_take_replaces_the_holder_that_was_seen(self, world: World) -> None:
        """Force replaces exactly the holder it names."""
        await world.fence(A)
        assert isinstance(await world.locks.take(KEY, A, B, TTL), Acquired)
        assert await world.holder(KEY) == B

    async def test_take_spares_a_new_holder(self, world: World) -> None:
        """Force that names a holder of the past changes nothing and tells the new one."""
        await world.fence(B)
        assert await world.locks.take(KEY, A, C, TTL) == Held(B, alive=False)
        assert await world.holder(KEY) == B

    async def test_take_of_a_lock_that_became_free(self, world: World) -> None:
        """A holder that has gone meanwhile is no obstacle."""
        assert isinstance(await world.locks.take(KEY, A, B, TTL), Acquired)

    async def test_numbers_grow_with_every_owner(self, world: World) -> None:
        """Whatever way a lock changes hands, the newer owner's number is the larger one."""
        numbers = [await world.fence(A)]
        taken = await world.locks.take(KEY, A, B, TTL)
        assert isinstance(taken, Acquired)
        numbers.append(taken.fence)
        await world.locks.release([(KEY, B)])
        numbers.append(await world.fence(A))
        await world.expire(KEY)
        numbers.append(await world.fence(B))
        await world.lose_everything()
        numbers.append(await world.fence(C))
        assert numbers == sorted(set(numbers))

    async def test_one_of_many_gets_it(self, world: World) -> None:
        """Of fifty who ask at once one gets the lock, and all others learn who."""
        owners = [f"pod-a-0-1#{n}" for n in range(50)]
        got = await asyncio.gather(*(world.locks.acquire(KEY, o, TTL) for o in owners))
        winners = [o for o, result in zip(owners, got, strict=True) if isinstance(result, Acquired)]
        assert len(winners) == 1
        assert {r.holder for r in got if isinstance(r, Held)} == set(winners)

    async def test_one_of_many_takes_it(self, world: World) -> None:
        """Of fifty who force the same holder out one succeeds."""
        await world.fence(A)
        owners = [f"pod-b-0-1#{n}" for n in range(50)]
        got = await asyncio.gather(*(world.locks.take(KEY, A, o, TTL) for o in owners))
        assert sum(isinstance(result, Acquired) for result in got) == 1

    async def test_renewal_lengthens(self, world: World) -> None:
        """A renewed lock lasts as long as the renewal says."""
        await world.locks.acquire(KEY, A, 5)
        assert await world.locks.renew([(KEY, A, TTL)]) == [True]
        assert TTL - 2 < await world.seconds_left(KEY) <= TTL

    async def test_renewal_of_a_lost_lock(self, world: World) -> None:
        """Another's lock is reported as lost and not touched, its time included."""
        await world.locks.acquire(KEY, B, 5)
        assert await world.locks.renew([(KEY, A, TTL)]) == [False]
        assert await world.holder(KEY) == B
        assert await world.seconds_left(KEY) <= 5

    async def test_renewal_after_the_data_was_lost(self, world: World) -> None:
        """A lock that vanished with all data is its owner's again; the next is told so."""
        await world.fence(A)
        await world.lose_everything()
        assert await world.locks.renew([(KEY, A, TTL)]) == [True]
        assert await world.locks.acquire(KEY, B, TTL) == Held(A, alive=False)

    async def test_renewal_after_expiry(self, world: World) -> None:
        """A lock that expired (a long pause, say) is its owner's again if nobody had it since."""
        await world.fence(A)
        await world.expire(KEY)
        assert await world.locks.renew([(KEY, A, TTL)]) == [True]
        assert await world.holder(KEY) == A

    async def test_renewal_after_somebody_else_had_it(self, world: World) -> None:
        """A lock that another had meanwhile is lost, even if that one has left already."""
        await world.fence(A)
        await world.expire(KEY)
        await world.fence(B)
        await world.locks.release([(KEY, B)])
        assert await world.locks.renew([(KEY, A, TTL)]) == [False]
        assert await world.holder(KEY) is None

    async def test_late_renewal_does_not_undo_a_release(self, world: World) -> None:
        """A renewal that arrives after the release of the same owner sets nothing again."""
        await world.fence(A)
        await world.locks.release([(KEY, A)])
        assert await world.locks.renew([(KEY, A, TTL)]) == [False]
        assert await world.holder(KEY) is None

    async def test_owner_may_come_back_after_its_release(self, world: World) -> None:
        """An owner that gave the lock up may acquire it anew, with a new number."""
        number = await world.fence(A)
        await world.locks.release([(KEY, A)])
        assert await world.fence(A) > number
        assert await world.locks.renew([(KEY, A, TTL)]) == [True]

    async def test_renewal_of_hundreds(self, world: World) -> None:
        """Answers come in the order of the leases, however many there are."""
        keys = [f"session:acme:bot:u{n}" for n in range(450)]
        await asyncio.gather(*(world.locks.acquire(k, A, TTL) for k in keys[::2]))
        await asyncio.gather(*(world.locks.acquire(k, B, TTL) for k in keys[1::2]))
        kept = await world.locks.renew([(key, A, TTL) for key in keys])
        assert kept == [True, False] * 225

    async def test_release_frees_only_what_is_ours(self, world: World) -> None:
        """Of many locks exactly those of the named owners are freed."""
        keys = [f"session:acme:bot:u{n}" for n in range(450)]
        await asyncio.gather(*(world.locks.acquire(k, A, TTL) for k in keys[::2]))
        await asyncio.gather(*(world.locks.acquire(k, B, TTL) for k in keys[1::2]))
        await world.locks.release([(key, A) for key in keys])
        assert [await world.holder(key) for key in keys] == [None, B] * 225

    async def test_nothing_to_do(self, world: World) -> None:
        """No leases are no work."""
        assert await world.locks.renew([]) == []
        await world.locks.release([])
