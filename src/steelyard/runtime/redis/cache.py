"""The balance cache in Redis: written by the one writer, read many at once on a connection of its own."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId
from steelyard.runtime.cache import CachedBalance
from steelyard.runtime.redis.connect import LOST, RedisServer, ask_all
from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.keys import account_keys, user_keys
from steelyard.runtime.redis.owners import AccountOwners, Owner, Place
from steelyard.runtime.redis.records import Records
from steelyard.runtime.redis.writer import RedisWriter

READ_DEADLINE_S = 0.1
PROOF_DEADLINE_S = 2.0
AT_ONCE = 256
WAITING_MAX = 10_000
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0

UNANSWERED: tuple[type[Exception], ...] = (*LOST, DatabaseUnavailable)


@dataclass(slots=True)
class RedisCache:
    """Balances in Redis, shared by all processes. Whatever is wrong there is a miss."""

    server: RedisServer
    owners: AccountOwners
    records: Records
    writer: RedisWriter
    clock: Clock
    counts: RedisCounts
    read_deadline_s: float = READ_DEADLINE_S
    _waiting: deque[tuple[Place, asyncio.Future[CachedBalance | None]]] = field(
        default_factory=deque
    )
    _task: asyncio.Task[None] | None = None
    _connection: AbstractConnection | None = None
    _pause_s: float = PAUSE_FIRST_S
    _not_before_s: float = 0.0

    def set_if_newer(self, tenant: TenantId, account: AccountId, balance: CachedBalance) -> bool:
        """Hand the balance to the writer."""
        return self.writer.store((tenant, account), balance)

    async def get(self, tenant: TenantId, account: AccountId) -> CachedBalance | None:
        """Return what is held; reads that arrive while one is under way share the next."""
        is_away = self.clock.monotonic_s() < self._not_before_s
        if is_away or len(self._waiting) >= WAITING_MAX:
            return None
        answer: asyncio.Future[CachedBalance | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(((tenant, account), answer))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._answer_all(), name="cached balances")
        try:
            async with asyncio.timeout(self.read_deadline_s):
                return await answer
        except TimeoutError:
            return None

    async def get_many(
        self, tenant: TenantId, accounts: Collection[AccountId]
    ) -> dict[AccountId, CachedBalance]:
        """Return what is held of these accounts, on a connection for the occasion."""
        found: dict[AccountId, CachedBalance] = {}
        places = [(tenant, account) for account in accounts]
        connection: AbstractConnection | None = None
        try:
            connection = await self.server.connect("proving")
            for at in range(0, len(places), AT_ONCE):
                part = places[at : at + AT_ONCE]
                async with asyncio.timeout(PROOF_DEADLINE_S):
                    held = await self._read(connection, part, deadline_s=PROOF_DEADLINE_S)
                found |= {place[1]: balance for place, balance in held.items()}
        except UNANSWERED:
            self.counts.failures += 1
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)
        return found

    async def forget(self, tenant: TenantId, accounts: Collection[AccountId]) -> None:
        """Drop what is held, and for 3 s keep everybody from storing what was read before."""
        await self.writer.forget(tenant, accounts)

    async def close(self) -> None:
        """End the reads under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._drop_connection()

    async def _answer_all(self) -> None:
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            asked = [(place, answer) for place, answer in taken if not answer.done()]
            held: dict[Place, CachedBalance] = {}
            try:
                if asked:
                    held = await self._read_soon(list({place for place, _ in asked}))
            finally:
                for place, answer in asked:
                    if not answer.done():
                        answer.set_result(held.get(place))

    async def _read_soon(self, places: Sequence[Place]) -> dict[Place, CachedBalance]:
        """Read within 100 ms; after a failure nobody asks again for a while, at most 2 s."""
        if self.clock.monotonic_s() < self._not_before_s:
            return {}
        try:
            async with asyncio.timeout(self.read_deadline_s):
                if self._connection is None or not self._connection.is_connected:
                    self._connection = await self.server.connect("reading")
                held = await self._read(self._connection, places, deadline_s=self.read_deadline_s)
        except DatabaseUnavailable:
            return {}
        except LOST:
            self.counts.failures += 1
            self._not_before_s = self.clock.monotonic_s() + self._pause_s
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
            await self._drop_connection()
            return {}
        self._pause_s = PAUSE_FIRST_S
        return held

    async def _read(
        self, connection: AbstractConnection, places: Sequence[Place], *, deadline_s: float
    ) -> dict[Place, CachedBalance]:
        owners = await self._find_owners(places)
        asked = [
            (place, _keys_of(place, owners[place]))
            for place in places
            if place in owners and place not in self.writer.forgetting
        ]
        if not asked:
            return {}
        keys = [key for _, pair in asked for key in pair]
        [answer] = await ask_all(connection, [("MGET", *keys)], deadline_s=deadline_s)
        if isinstance(answer, RedisError):
            raise answer
        held: dict[Place, CachedBalance] = {}
        for at, (place, pair) in enumerate(asked):
            pieces: list[Any] = answer[2 * at : 2 * at + 2]
            balance = self.records.read(pair[0], place[1], (pieces[0], pieces[1]))
            if balance is not None and place not in self.writer.forgetting:
                held[place] = balance
        return held

    async def _find_owners(self, places: Sequence[Place]) -> dict[Place, Owner]:
        """Ask whose they are. A read that gives up leaves the question be: cutting it off would cost a connection."""
        asking = asyncio.ensure_future(self.owners.find(places))
        asking.add_done_callback(_hear_failure)
        return await asyncio.shield(asking)

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)


def _keys_of(place: Place, owner: Owner) -> tuple[str, str]:
    return user_keys(place[0], owner.user) if owner.is_primary else account_keys(*place)


def _hear_failure(asking: "asyncio.Future[dict[Place, Owner]]") -> None:
    """Whoever still waits is told; for the others there is nothing to do."""
    if not asking.cancelled():
        asking.exception()
