"""The sweep: each second, what is shown is compared with the database, and who looks with what it may.

It finds what no messenger brought, accounts opened since, and sessions whose token has ended or was revoked.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from steelyard.access.errors import Unauthenticated
from steelyard.balances.read import BATCH_LIMIT
from steelyard.core.clock import format_utc
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId
from steelyard.live.admit import WARN_BEFORE
from steelyard.live.events import AUTH_EXPIRING, json_event
from steelyard.live.heal import DEADLINE_S
from steelyard.live.session import Session
from steelyard.live.store import Owner, Place, load_positions, load_primary_accounts
from steelyard.live.transport import Ending

if TYPE_CHECKING:
    from steelyard.live.gateway import Gateway

GRACE_S = 0.1
"""A step committed just now is on its way; only what is still missing after this was lost."""

CHECK_AFTER_S = 5.0
CHECK_SPREAD_S = 10.0
"""A session's credential is checked again 5 to 15 s after the last time, spread evenly."""

T = TypeVar("T")
_GOLDEN = 0.618033988749895


@dataclass(slots=True, eq=False)
class Sweep:
    """Looks at everything once in an interval, and at what is suspected sooner."""

    gateway: "Gateway"
    _suspects: set[Place] = field(default_factory=set)
    _owners: set[Owner] = field(default_factory=set)
    """Users of whom something was heard on an account that no session of theirs shows."""
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _is_all_due: bool = True
    _full_at_s: float = 0.0
    _numbers: "count[int]" = field(default_factory=count)

    # --- what others ask -----------------------------------------------------------------------

    def hurry(self) -> None:
        """Look at everything soon."""
        self._is_all_due = True
        self._hurry.set()

    def suspect(self, place: Place) -> None:
        """Look at one account soon."""
        self._suspects.add(place)
        self._hurry.set()

    def look_for_accounts(self, owner: Owner) -> None:
        """Look for new accounts of a user soon."""
        self._owners.add(owner)
        self._hurry.set()

    def schedule_check(self, session: Session) -> None:
        """Plan when the session's credential is checked next."""
        spread_s = (next(self._numbers) * _GOLDEN) % 1.0 * CHECK_SPREAD_S
        session.check_at_s = self.gateway.ports.clock.monotonic_s() + CHECK_AFTER_S + spread_s

    # --- turns ---------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Wait until something is due, and look; for `repeat`.

        Raises:
            DatabaseUnavailable: Nobody was told anything; everything is due again.
        """
        interval_s, loop = self.gateway.limits.sweep_interval_s, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, self._full_at_s + interval_s - loop.time())):
                await self._hurry.wait()
        except TimeoutError:
            self._is_all_due = True
        self._hurry.clear()
        try:
            await self.look()
        except BaseException:
            self._is_all_due = True
            raise

    async def look(self) -> None:
        """Look at what is due: everything, or what is suspected."""
        is_all, self._is_all_due = self._is_all_due, False
        if is_all:
            self._full_at_s = asyncio.get_running_loop().time()
        suspects, self._suspects = self._suspects, set()
        owners, self._owners = self._owners, set()
        gateway = self.gateway
        await self._compare(list(gateway.watches) if is_all else list(suspects))
        due = self._due() if is_all else []
        if is_all:
            empty = (session.owner for session in gateway.sessions() if _is_empty(session))
            owners = {*owners, *empty, *(session.owner for session in due)}
        await self._find_accounts(owners)
        await self._check_credentials(due)

    async def end_expired(self) -> None:
        """Warn sessions whose token ends within 60 s, and end those whose has. Asks nobody."""
        now = self.gateway.ports.clock.now()
        for session in self.gateway.sessions():
            ends = session.expires_at
            if ends is None:
                continue
            if now >= ends:
                session.end(Ending.UNAUTHENTICATED)
            elif session.is_started and not session.was_warned and now >= ends - WARN_BEFORE:
                session.was_warned = True
                session.put(json_event(AUTH_EXPIRING, {"expiresAt": format_utc(ends)}))

    # --- what is behind ------------------------------------------------------------------------

    async def _compare(self, places: list[Place]) -> None:
        behind: dict[Place, int] = {}
        for chunk in _chunks(places):
            behind.update(await self._compare_some(chunk))
        if not behind:
            return
        await asyncio.sleep(GRACE_S)
        for place, head in behind.items():
            watch = self.gateway.watches.get(place)
            if watch is not None and watch.told is not None and watch.told < head:
                self.gateway.healer.want_for_sweep(watch)

    async def _compare_some(self, places: list[Place]) -> dict[Place, int]:
        """Return the accounts whose journal is ahead of what was told, with its head.

        A journal that ends before what was told was put back to an earlier state: then the balance is told anew.
        """
        watches = self.gateway.watches
        told = {place: watches[place].told for place in places if place in watches}
        known = [place for place, seq in told.items() if seq is not None]
        behind: dict[Place, int] = {}
        for place, head in await _in_time(load_positions(self.gateway.ports.database, known)):
            seq = told[place] or 0
            if head > seq:
                behind[place] = head
            elif head < seq and place in watches:
                watches[place].begin_again_at(head)
        return behind

    # --- who looks -----------------------------------------------------------------------------

    def _due(self) -> list[Session]:
        now_s = self.gateway.ports.clock.monotonic_s()
        return [
            one for one in self.gateway.sessions() if one.is_started and now_s >= one.check_at_s
        ]

    async def _find_accounts(self, owners: Iterable[Owner]) -> None:
        """Show accounts opened since, and another primary one."""
        for chunk in _chunks([owner for owner in owners if owner in self.gateway.rooms]):
            database = self.gateway.ports.database
            primaries = await _in_time(load_primary_accounts(database, chunk))
            for owner in chunk:
                for session in list(self.gateway.rooms.get(owner, ())):
                    await self._refresh_accounts(session, primaries.get(owner))

    async def _refresh_accounts(self, session: Session, primary: AccountId | None) -> None:
        if primary is None or not session.is_started or session.is_joining:
            return
        if session.wants_all:
            for account in await self.gateway.join.find_accounts(session):
                self.gateway.bring(session, account)
        elif primary not in session.seats:
            for account in list(session.seats):
                self.gateway.leave_account(session, account)
            self.gateway.bring(session, primary)

    async def _check_credentials(self, due: list[Session]) -> None:
        """End sessions whose token or key does not count any more; nobody is ended because nobody could say."""
        authenticator = self.gateway.ports.authenticator
        for chunk in _chunks(due):
            callers = {
                (one.principal.tenant, one.principal.user)
                for one in chunk
                if one.principal.user is not None
            }
            await _in_time(authenticator.refresh_standings(list(callers)))
            for session in chunk:
                self.schedule_check(session)
                try:
                    await _in_time(authenticator.check_credential(session.credential))
                except Unauthenticated:
                    session.end(Ending.UNAUTHENTICATED)


def _is_empty(session: Session) -> bool:
    return session.is_started and not session.seats


def _chunks(many: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(many), BATCH_LIMIT):
        yield many[start : start + BATCH_LIMIT]


async def _in_time(reading: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reading
    except TimeoutError:
        raise DatabaseUnavailable(doing="comparing live sessions with the database") from None
