"""The relay: reads the journal behind the commits and publishes what the fast path did not.

It reads up to the snapshot horizon: the moment before which no transaction can still commit. Reading by a
growing id instead loses rows that become visible late. At least once; listeners order and de-duplicate by
(account, seq).
"""

from dataclasses import dataclass, field

import asyncpg

from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId
from steelyard.runtime.bus import BalanceEvent, ChangeBus
from steelyard.runtime.database import Database

PAGE = 5_000
CONFIRMED_LIMIT = 200_000
_PLACES = "SELECT * FROM steelyard.read_journal_places($1::text::xid8, $2)"
_CHANGES = "SELECT * FROM steelyard.read_changes_at($1, $2, $3)"


@dataclass(slots=True)
class Relay:
    """One reader of the journal."""

    database: Database
    bus: ChangeBus
    clock: Clock
    name: str | None = None
    """Keeps its position in the database under this name; without one it begins at the horizon each start."""
    published: int = 0
    confirmed_before: int = 0
    _confirmed: set[tuple[TenantId, AccountId, int]] = field(default_factory=set)
    _position: str | None = None

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
            await self._record_position()
        limit, total = PAGE, 0
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
                await self._publish_unheard(places[:whole])
                self._position = str(xids[whole - 1] + 1)
                await self._record_position()
            if len(xids) < limit:
                return total

    async def _publish_unheard(self, places: list[tuple[TenantId, AccountId, int]]) -> None:
        """Publish what the fast path did not, in the order of each account's seq.

        A transaction may take its xid early and an account's lock late: within what is visible at once, seq decides.
        """
        unheard = [place for place in places if place not in self._confirmed]
        self._confirmed.difference_update(places)
        self.confirmed_before += len(places) - len(unheard)
        if unheard:
            columns = [list(column) for column in zip(*unheard, strict=True)]
            for row in await self.database.fetch(_CHANGES, *columns):
                self._publish(row)

    def _publish(self, row: asyncpg.Record) -> None:
        tenant, account, seq = TenantId(row["tenant_id"]), AccountId(row["account_id"]), row["seq"]
        if row["user_id"] is None:
            return  # the books' own accounts are on nobody's screen
        self.published += 1
        is_receiver = row["kind"] == "transfer" and row["amount"] > 0
        origin = (AccountId(row["contra_id"]), row["contra_seq"]) if is_receiver else (account, seq)
        self.bus.publish(
            BalanceEvent(
                event="balance_updated",
                tenant=tenant,
                account=account,
                user=UserId(row["user_id"]),
                currency=row["currency"],
                seq=seq,
                kind=row["kind"],
                amount=row["amount"] - row["held_amount"],
                posted=row["balance_after"],
                held=row["held_after"],
                at=row["posted_at"],
                transaction=TransactionId(*origin),
            )
        )
        self._confirmed.discard((tenant, account, seq))  # we heard ourselves say it

    async def _load_position(self) -> str:
        found = self.name and await self.database.fetchval(
            "SELECT xid::text FROM steelyard.relay_position WHERE name = $1", self.name
        )
        if found:
            return str(found)
        # A new relay begins at the horizon: what came before has been seen by nobody, and is asked for by seq.
        return str(
            await self.database.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
        )

    async def _record_position(self) -> None:
        if self.name is None:
            return
        await self.database.fetch(
            "INSERT INTO steelyard.relay_position (name, xid) VALUES ($1, $2::text::xid8) "
            "ON CONFLICT (name) DO UPDATE SET xid = greatest(relay_position.xid, excluded.xid)",
            self.name,
            self._position,
        )
