"""The relay: reads the journal behind the commits and publishes what the fast path did not.

It reads up to the snapshot horizon: the moment before which no transaction can still commit. Reading by a
growing id instead loses rows that become visible late. At least once; listeners order and de-duplicate by
(account, seq).

Every process has a relay of its own. Where processes tell each other (`waits_a_turn`), what one of them committed is
on its way to all; a relay then says only what nobody has said by its next turn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg

from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.cache import BalanceCache, CachedBalance
from steelyard.runtime.change_rows import event_of_change
from steelyard.runtime.database import Database

PAGE = 5_000
CONFIRMED_LIMIT = 200_000
WAITING_LIMIT = 20_000
"""More unheard changes than this are not held back: nobody else is telling them."""
_PLACES = "SELECT * FROM steelyard.read_journal_places($1::text::xid8, $2)"
_CHANGES = "SELECT * FROM steelyard.read_changes_at($1, $2, $3)"

Step = tuple[TenantId, AccountId, int]
"""One change: its tenant, account and seq."""


@dataclass(slots=True)
class Relay:
    """One reader of the journal."""

    database: Database
    bus: ChangeBus
    clock: Clock
    name: str | None = None
    """Keeps its position in the database under this name; without one it begins at the horizon each start."""
    cache: BalanceCache | None = None
    """Told what nobody else told it."""
    waits_a_turn: bool = False
    """Hold what is unheard back until the next turn: another process may be telling it."""
    record_every_s: float = 0.0
    is_told_since: Callable[[float], bool] = lambda _: True
    """Whether all that was published before this monotonic moment has left the process; a position is kept only then."""
    published: int = 0
    confirmed_before: int = 0
    _confirmed: set[Step] = field(default_factory=set)
    _waiting: list[Step] = field(default_factory=list)
    _position: str | None = None
    _candidate: tuple[str, float] | None = None
    _recorded: str | None = None

    def confirm(self, event: BalanceEvent) -> None:
        """Hear of what the fast path published (subscribe this to the bus): no need to say it twice."""
        if event.seq is None:
            return
        if len(self._confirmed) >= CONFIRMED_LIMIT:
            self._confirmed.clear()  # then some are said twice, which listeners expect
        self._confirmed.add((event.tenant, event.account, event.seq))

    async def run_once(self) -> int:
        """Publish what is behind the horizon and not yet published. Returns how many rows were read."""
        if self._position is None:
            self._position = await self._load_position()
            await self._record_position(self._position)
        limit, total, waited = PAGE, 0, len(self._waiting)
        while True:
            row = (await self.database.fetch(_PLACES, self._position, limit))[0]
            xids: list[int] = row["r_xid"] or []
            places = list(
                zip(row["r_tenant"] or (), row["r_account"] or (), row["r_seq"] or (), strict=True)
            )
            # Some rows of a full page's last unit of work may be on the next one.
            whole = len(xids) if len(xids) < limit else xids.index(xids[-1])
            if xids and not whole:
                limit *= 2  # one unit of work larger than a page
                continue
            total += whole
            if whole:
                await self._take(places[:whole])
                self._position = str(xids[whole - 1] + 1)
            if len(xids) < limit:
                break
        await self._publish_unheard(self._waiting[:waited])
        del self._waiting[:waited]
        await self._keep_position()
        return total

    async def _take(self, steps: list[Step]) -> None:
        """Hold back what nobody has told yet; publish at once what is not, or may not be, held back."""
        unheard = [step for step in steps if step not in self._confirmed]
        self._confirmed.difference_update(steps)
        self.confirmed_before += len(steps) - len(unheard)
        if not self.waits_a_turn or len(self._waiting) + len(unheard) > WAITING_LIMIT:
            await self._publish_unheard(unheard)
        else:
            self._waiting += unheard

    async def _publish_unheard(self, steps: list[Step]) -> None:
        """Publish what nobody has told, in the order of each account's seq.

        A transaction may take its xid early and an account's lock late: within what is visible at once, seq decides.
        """
        unheard = [step for step in steps if step not in self._confirmed]
        self._confirmed.difference_update(steps)
        self.confirmed_before += len(steps) - len(unheard)
        if unheard:
            columns = [list(column) for column in zip(*unheard, strict=True)]
            for row in await self.database.fetch(_CHANGES, *columns):
                self._publish(row)

    def _publish(self, row: asyncpg.Record) -> None:
        tenant, account, seq = TenantId(row["tenant_id"]), AccountId(row["account_id"]), row["seq"]
        if row["user_id"] is None:
            return  # the books' own accounts are on nobody's screen
        self.published += 1
        if self.cache is not None:
            available = row["balance_after"] - row["held_after"]
            self.cache.set_if_newer(tenant, account, CachedBalance(available, row["digits"], seq))
        self.bus.publish(event_of_change(row))
        self._confirmed.discard((tenant, account, seq))  # we heard ourselves say it

    async def _load_position(self) -> str:
        # Never beyond the horizon: a restored database counts its units of work anew.
        found = self.name and await self.database.fetchval(
            "SELECT least(xid, pg_snapshot_xmin(pg_current_snapshot()))::text FROM steelyard.relay_position "
            "WHERE name = $1",
            self.name,
        )
        if found:
            return str(found)
        # A new relay begins at the horizon: what came before has been seen by nobody, and is asked for by seq.
        return str(
            await self.database.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        )

    async def _keep_position(self) -> None:
        """Keep a position once all that lies before it has been told, and not more often than asked for."""
        assert self._position is not None, "loaded by the first turn"
        if not self.waits_a_turn:
            await self._record_position(self._position)
            return
        now_s = self.clock.monotonic_s()
        if self._candidate is None:  # what waits now is told by the next turn
            self._candidate = (self._position, now_s)
            return
        position, since_s = self._candidate
        if now_s - since_s < self.record_every_s or not self.is_told_since(since_s):
            return
        await self._record_position(position)
        self._candidate = None

    async def _record_position(self, position: str) -> None:
        if self.name is None or position == self._recorded:
            return
        await self.database.fetch(
            "INSERT INTO steelyard.relay_position (name, xid) VALUES ($1, $2::text::xid8) "
            "ON CONFLICT (name) DO UPDATE SET xid = greatest(relay_position.xid, excluded.xid)",
            self.name,
            position,
        )
        self._recorded = position
