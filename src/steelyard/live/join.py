"""Brings an account onto a session without a gap: join its watch first, then read, replay what was missed, go on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from steelyard.balances.model import Balance
from steelyard.balances.read import BalanceReader
from steelyard.core.errors import DatabaseUnavailable, NotFound, Overloaded
from steelyard.core.ids import AccountId
from steelyard.live.events import BALANCE_INITIAL, LiveEvent, replayed_events_of
from steelyard.live.heal import DEADLINE_S
from steelyard.live.session import Seat, Session, SessionEnded
from steelyard.live.store import Place, list_account_ids, load_changes_after
from steelyard.live.transport import Ending
from steelyard.live.watch import Watch
from steelyard.runtime.database import Database
from steelyard.runtime.event_payloads import balance_payload

REPLAY_MAX = 200
"""Missed changes of one account that are told again; with more, the balance alone is told."""

READERS = 4
"""Sessions that read the database at the same time; a crowd that comes back must not take all connections."""

AGAIN_MAX = 5
BACKOFF_S_MAX = 5.0
NO_ACCOUNT = LiveEvent(BALANCE_INITIAL, '{"balance":0,"accountId":null}')

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Join:
    """Reads accounts for sessions. `watch_of` gives the watch of an account, making it where there is none."""

    database: Database
    reader: BalanceReader
    watch_of: Callable[[Place], Watch]
    accounts_max: int
    _readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READERS))

    async def begin(self, session: Session) -> None:
        """Find the session's accounts and bring each onto it."""
        accounts = await self._patiently(lambda: self.find_accounts(session))
        if not accounts:
            session.put(NO_ACCOUNT)
        for account in accounts:
            await self.bring(session, account)

    async def find_accounts(self, session: Session) -> list[AccountId]:
        """Return the accounts the session is to show: the primary one, or the first 20."""
        tenant, user = session.owner
        async with self._readers:
            if session.wants_all:
                return await _in_time(
                    list_account_ids(self.database, tenant, user, limit=self.accounts_max)
                )
            primary = await _in_time(self.reader.primary_account(tenant, user))
            return [] if primary is None else [primary]

    async def bring(self, session: Session, account: AccountId) -> None:
        """Show one account of the session's user: missed changes, `balance_initial`, then every change.

        The database away means to wait; the session stays. An account of somebody else is not shown.
        """
        if account in session.seats:
            return
        tenant, user = session.owner
        seat = session.seats[account] = Seat(session, account)
        watch = self.watch_of((tenant, account))
        watch.listeners.add(seat)
        asked = session.asked.pop(account, None)
        try:
            balance = await self._read_balance(session, account)
        except NotFound:
            balance = None
        if balance is None or balance.user != user:
            session.seats.pop(account, None)
            watch.listeners.discard(seat)
            return
        seat.currency = balance.currency.code
        balance, extra = await self._catch_up(seat, watch, balance, asked)
        session.put(initial_of(seat, (balance.posted, balance.held, balance.seq), extra))
        seat.begin(balance.seq, balance.posted, balance.held)
        watch.start_at(balance.seq)

    async def _catch_up(
        self, seat: Seat, watch: Watch, balance: Balance, asked: int | None
    ) -> tuple[Balance, str]:
        """Replay what was missed, and read again while more happens than is kept meanwhile.

        Returns:
            Where the account stands now, and what `balance_initial` says of the resumption; what was told after that
            is kept in the seat.
        """
        session = seat.session
        extra = _resumption(asked, balance.seq)
        replayed_to = asked if extra == _RESUMED else None
        for _ in range(AGAIN_MAX):
            if replayed_to is not None:
                await self._replay(seat, replayed_to, balance.seq)
                replayed_to = balance.seq
            await session.room()
            if not seat.must_read_again(balance.seq, watch.told):
                return balance, extra
            seat.begin_again()
            balance = await self._read_balance(session, seat.account)
            if replayed_to is not None and balance.seq - replayed_to > REPLAY_MAX:
                extra, replayed_to = _resumption(replayed_to, balance.seq), None
        session.end(Ending.TOO_SLOW)
        raise SessionEnded

    async def _replay(self, seat: Seat, after: int, until: int) -> None:
        if after == until:
            return
        place = (seat.session.owner[0], seat.account, after)

        async def load() -> list[LiveEvent]:
            async with self._readers:
                steps = await _in_time(load_changes_after(self.database, [place], limit=REPLAY_MAX))
            return [
                event
                for step in steps
                if step.seq is not None and step.seq <= until
                for event in replayed_events_of(step)
            ]

        for event in await self._patiently(load):
            await seat.session.room()
            seat.session.put(event)

    async def _read_balance(self, session: Session, account: AccountId) -> Balance:
        return await self._patiently(lambda: self.reader.read(session.owner[0], account))

    async def _patiently(self, act: Callable[[], Awaitable[T]]) -> T:
        """Do it, again and again while the database is away; the session's end cancels this."""
        failures = 0
        while True:
            try:
                return await act()
            except (DatabaseUnavailable, Overloaded):
                failures += 1
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), BACKOFF_S_MAX))


_RESUMED = ',"resumed":true'


def _resumption(asked: int | None, head: int) -> str:
    if asked is None:
        return ',"resumed":false'
    if asked > head:
        return ',"resumed":false,"reason":"unknown"'
    if head - asked > REPLAY_MAX:
        return f',"resumed":false,"reason":"gap","missed":{head - asked}'
    return _RESUMED


def initial_of(seat: Seat, standing: tuple[int, int, int], extra: str) -> LiveEvent:
    """Return `balance_initial`: `standing` is posted, held (minor units) and `seq`."""
    payload = balance_payload(
        standing, account=str(seat.account), currency=seat.currency, extra=extra
    )
    return LiveEvent(BALANCE_INITIAL, payload, seat.account, standing[2], moves_position=True)


async def _in_time(reading: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await reading
    except TimeoutError:
        raise DatabaseUnavailable(doing="reading for a live session") from None
