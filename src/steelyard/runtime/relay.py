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
            rows = await self.database.fetch(
                "SELECT * FROM steelyard.read_journal($1::text::xid8, $2)", self._position, limit
            )
            total += len(rows)
            whole = rows if len(rows) < limit else _without_last_unit(rows)
            if rows and not whole:
                limit *= 2  # one unit of work larger than a page
                continue
            # A transaction may take its xid early and an account's lock late: within what is visible at once, seq decides.
            for row in sorted(
                whole, key=lambda row: (row["tenant_id"], row["account_id"], row["seq"])
            ):
                self._publish(row)
            if whole:
                self._position = str(int(whole[-1]["xid"]) + 1)
                await self._record_position()
            if len(rows) < limit:
                return total

    def _publish(self, row: asyncpg.Record) -> None:
        if row["user_id"] is None:
            return  # the books' own accounts are on nobody's screen
        tenant, account, seq = TenantId(row["tenant_id"]), AccountId(row["account_id"]), row["seq"]
        if (tenant, account, seq) in self._confirmed:
            self._confirmed.discard((tenant, account, seq))
            self.confirmed_before += 1
            return
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


def _without_last_unit(rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """Drop the rows of the last unit of work of a full page: some of them may be on the next one."""
    last = rows[-1]["xid"]
    return [row for row in rows if row["xid"] != last]
