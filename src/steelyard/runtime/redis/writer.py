"""Tells Redis what happened here: one task that stores balances and publishes events, in the order they came.

Whoever hands something over never waits: what cannot be told yet waits here, bounded, and is told when the server is
back. Of balances the newest of each account waits; of events the newest 10,000.
"""

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.cache import TTL_S, CachedBalance
from steelyard.runtime.redis.connect import LOST, Command, RedisServer, ask_all
from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.hints import REFUSAL_AGE_S_MAX, Hints
from steelyard.runtime.redis.keys import account_keys, user_keys
from steelyard.runtime.redis.owners import AccountOwners, Owner, Place
from steelyard.runtime.redis.records import FORGOTTEN, PUBLISH_ALL, STORE_NEWER, Records

MESSAGES_MAX = 10_000
BALANCES_MAX = 100_000
AT_ONCE = 500
STORED_AT_ONCE = 100
"""Balances in one call of the script: the server does nothing else meanwhile."""
TOLD_AT_ONCE = 200
"""Messages in one call of theirs."""
DEADLINE_S = 1.0
FRESH_S = 1.0
FORGET_DEADLINE_S = 2.0
FORGOTTEN_MS = 3_000
"""So long nothing is stored of a forgotten account: what was read before the repair arrives within it."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0

_STORE_SHA = hashlib.sha1(STORE_NEWER.encode(), usedforsecurity=False).hexdigest()
_PUBLISH_SHA = hashlib.sha1(PUBLISH_ALL.encode(), usedforsecurity=False).hexdigest()

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Balance:
    balance: CachedBalance
    at_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: BalanceEvent
    at_s: float


@dataclass(slots=True)
class RedisWriter:
    """The one task of this process that writes to Redis."""

    server: RedisServer
    owners: AccountOwners
    hints: Hints
    records: Records
    clock: Clock
    counts: RedisCounts
    forgetting: set[Place] = field(default_factory=set)
    """Accounts whose balance is to be forgotten and perhaps is not yet: nobody may read it."""
    _balances: dict[Place, _Balance] = field(default_factory=dict)
    _messages: deque[_Waiting] = field(default_factory=deque)
    _under_way_since_s: float | None = None
    _connection: AbstractConnection | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _told: asyncio.Condition = field(default_factory=asyncio.Condition)
    _is_away: bool = False

    @property
    def waiting(self) -> int:
        """How many balances and events wait to be told."""
        return len(self._balances) + len(self._messages)

    def store(self, place: Place, balance: CachedBalance) -> bool:
        """Store a balance soon, unless a newer one of the account waits already."""
        known = self._balances.get(place)
        if known is not None:
            if known.balance.seq >= balance.seq:
                return False
            del self._balances[place]  # so that those that waited longest stay first
        elif len(self._balances) >= BALANCES_MAX:
            self.counts.cache_dropped += 1
            return False
        self._balances[place] = _Balance(balance, self.clock.monotonic_s())
        self._wake.set()
        return True

    def publish(self, event: BalanceEvent) -> None:
        """Publish an event soon; when too many wait, the oldest is dropped. Books' events are told to nobody."""
        if event.user is None:
            return
        self.owners.note(event.tenant, event.account, event.user)
        if len(self._messages) >= MESSAGES_MAX:
            self._messages.popleft()
            self.counts.dropped += 1
        self._messages.append(_Waiting(event, self.clock.monotonic_s()))
        self._wake.set()

    async def forget(self, tenant: TenantId, accounts: Collection[AccountId]) -> None:
        """Drop balances, here and in Redis, before this returns; after 2 s without an answer as soon as there is one."""
        places = {(tenant, account) for account in accounts}
        for place in places:
            self._balances.pop(place, None)
        self.forgetting |= places
        self._wake.set()
        try:
            async with asyncio.timeout(FORGET_DEADLINE_S), self._told:
                await self._told.wait_for(lambda: not places & self.forgetting)
        except TimeoutError:
            _log.warning("redis.forget_waits", server=self.server.name, accounts=len(places))

    def is_told_since(self, moment_s: float) -> bool:
        """Say whether everything handed over before a monotonic moment has been told, or will never be."""
        waiting = [
            self._under_way_since_s,
            next(iter(self._balances.values())).at_s if self._balances else None,
            self._messages[0].at_s if self._messages else None,
        ]
        return all(since_s is None or since_s >= moment_s for since_s in waiting)

    async def run(self) -> None:
        """Tell what waits, until cancelled; while the server is away try again, at most every 2 s."""
        pause_s = PAUSE_FIRST_S
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    while self._balances or self._messages or self.forgetting:
                        await self._tell_some()
                        pause_s = PAUSE_FIRST_S
                except DatabaseUnavailable:
                    await asyncio.sleep(PAUSE_MAX_S)
                    self._wake.set()
                except LOST as error:
                    self.counts.failures += 1
                    self._note_away(error)
                    await self.drop_connection()
                    await asyncio.sleep(pause_s * (0.5 + secrets.randbelow(1000) / 1000))
                    pause_s = min(pause_s * 2, PAUSE_MAX_S)
                    self._wake.set()
        finally:
            await self.drop_connection()

    async def drain(self, *, deadline_s: float) -> None:
        """Wait until nothing waits, or for `deadline_s`."""
        end_s = self.clock.monotonic_s() + deadline_s
        while self.waiting or self._under_way_since_s is not None:
            if self._is_away or self.clock.monotonic_s() > end_s:
                return
            await asyncio.sleep(0.01)

    async def drop_connection(self) -> None:
        """Close the connection; the next thing told opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _tell_some(self) -> None:
        """Tell a part of what waits; on failure it waits again."""
        forgotten = set(islice(self.forgetting, AT_ONCE))
        balances = dict(islice(self._balances.items(), AT_ONCE))
        for place in balances:
            del self._balances[place]
        # A balance is stored before its event is told; so while many balances wait, events do.
        taken = 0 if self._balances else min(AT_ONCE, len(self._messages))
        messages = [self._messages.popleft() for _ in range(taken)]
        since = [*(one.at_s for one in balances.values()), *(one.at_s for one in messages)]
        self._under_way_since_s = min(since, default=None)
        try:
            places = {*forgotten, *balances, *(_place(one.event) for one in messages)}
            owners = await self.owners.find(places)
            await self._send(forgotten, balances, messages, owners)
        except BaseException:
            self._take_back(balances, messages)
            raise
        finally:
            self._under_way_since_s = None
        if forgotten:
            self.forgetting -= forgotten
            async with self._told:
                self._told.notify_all()

    def _take_back(self, balances: dict[Place, _Balance], messages: list[_Waiting]) -> None:
        newer = self._balances
        self._balances = {
            place: one
            for place, one in balances.items()
            if place not in self.forgetting
            and (place not in newer or newer[place].balance.seq < one.balance.seq)
        }
        for place, one in newer.items():
            self._balances.setdefault(place, one)
        room = MESSAGES_MAX - len(self._messages)
        self.counts.dropped += max(0, len(messages) - room)
        self._messages.extendleft(reversed(messages[max(0, len(messages) - room) :]))

    async def _send(
        self,
        forgotten: set[Place],
        balances: dict[Place, _Balance],
        messages: list[_Waiting],
        owners: dict[Place, Owner],
    ) -> None:
        """Send everything in one go: what is forgotten, then balances, then events."""
        connection = await self._connected()
        now_s = self.clock.monotonic_s()
        stores = [
            command
            for chunk in _chunks(
                [item for item in balances.items() if item[0] not in self.forgetting]
            )
            if (command := self._store_command(chunk, owners, now_s=now_s))
        ]
        forgets = _forget_commands(forgotten, owners)
        commands = [*forgets, *stores]
        said = self._said(messages, owners, now_s=now_s)
        publishing = _publish_commands(said)
        answers = await self._ask(connection, [*commands, *publishing])
        self._check_answers(answers, must_hold=len(forgets))
        unsaid = sum(answer for answer in answers[len(commands) :] if isinstance(answer, int))
        self.counts.failures += unsaid
        self.counts.published += len(said) - unsaid

    async def _ask(self, connection: AbstractConnection, commands: list[Command]) -> list[Any]:
        """Ask everything in one go; once more what needs a script that the server has forgotten."""
        answers = await ask_all(connection, commands, deadline_s=DEADLINE_S)
        lost = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if lost:
            await _load_scripts(connection)
            again = [commands[at] for at in lost]
            for at, answer in zip(
                lost, await ask_all(connection, again, deadline_s=DEADLINE_S), strict=True
            ):
                answers[at] = answer
        return answers

    def _check_answers(self, answers: list[Any], *, must_hold: int) -> None:
        """Try again what a server refuses that cannot write; what else it refuses is counted and given up.

        Raises:
            RedisError: It cannot write at all, or refused one of the first `must_hold` commands.
        """
        refused = [answer for answer in answers if isinstance(answer, RedisError)]
        for answer in refused:
            is_needed = any(answer is one for one in answers[:must_hold])
            if is_needed or isinstance(answer, ReadOnlyError):
                raise answer
        self.counts.failures += len(refused)
        if refused:
            self._note_away(refused[0])
        elif self._is_away:
            self._is_away = False
            _log.info("redis.back", server=self.server.name)

    def _store_command(
        self, chunk: Sequence[tuple[Place, _Balance]], owners: dict[Place, Owner], *, now_s: float
    ) -> Command | None:
        keys: list[str] = []
        values: list[str | int] = []
        for place, one in chunk:
            owner = owners.get(place)
            if owner is None:
                continue  # the books' own accounts are in nobody's cache
            pair = user_keys(place[0], owner.user) if owner.is_primary else account_keys(*place)
            number, record = self.records.write(pair[0], place[1], one.balance)
            age = "fresh" if now_s - one.at_s < FRESH_S else "late"
            keys += pair
            values += (age, place[1], one.balance.seq, number, record)
        if not keys:
            return None
        return ("EVALSHA", _STORE_SHA, len(keys), *keys, int(TTL_S * 1000), *values)

    def _said(
        self, messages: list[_Waiting], owners: dict[Place, Owner], *, now_s: float
    ) -> list[tuple[str, str]]:
        said: list[tuple[str, str]] = []
        for one in messages:
            owner = owners.get(_place(one.event))
            if owner is None or (one.event.seq is None and now_s - one.at_s > REFUSAL_AGE_S_MAX):
                continue
            said += self.hints.write(one.event, is_primary=owner.is_primary)
        return said

    async def _connected(self) -> AbstractConnection:
        if self._connection is None or not self._connection.is_connected:
            self._connection = await self.server.connect("writing")
            await _load_scripts(self._connection)
        return self._connection

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            _log.warning("redis.away", server=self.server.name, reason=type(error).__name__)


def _place(event: BalanceEvent) -> Place:
    return event.tenant, event.account


def _chunks(items: list[tuple[Place, _Balance]]) -> list[list[tuple[Place, _Balance]]]:
    return [items[at : at + STORED_AT_ONCE] for at in range(0, len(items), STORED_AT_ONCE)]


def _forget_commands(places: set[Place], owners: dict[Place, Owner]) -> list[Command]:
    """Both places where an account may be held: its own, and its user's, primary or not."""
    commands: list[Command] = []
    for place in places:
        owner = owners.get(place)
        if owner is None:
            continue
        for value_key, seq_key in (user_keys(place[0], owner.user), account_keys(*place)):
            commands.append(("SET", seq_key, FORGOTTEN, "PX", FORGOTTEN_MS))
            commands.append(("DEL", value_key))
    return commands


def _publish_commands(said: list[tuple[str, str]]) -> list[Command]:
    """One call for many messages: an answer for each would cost more than the message."""
    parts = (said[at : at + TOLD_AT_ONCE] for at in range(0, len(said), TOLD_AT_ONCE))
    return [("EVALSHA", _PUBLISH_SHA, 0, *chain.from_iterable(part)) for part in parts]


async def _load_scripts(connection: AbstractConnection) -> None:
    commands = [("SCRIPT", "LOAD", script) for script in (STORE_NEWER, PUBLISH_ALL)]
    for answer in await ask_all(connection, commands, deadline_s=DEADLINE_S):
        if isinstance(answer, RedisError):
            raise answer
