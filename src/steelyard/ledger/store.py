"""All SQL of the ledger's own tables: top-ups and due holds."""

from datetime import datetime

import asyncpg

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId
from steelyard.ledger.model import Topup
from steelyard.runtime.database import Database, UnitOfWork

_TOPUP = """
    SELECT id, account_id, user_id, amount, currency, status, requested_by, requested_at, processed_by, processed_at, seq
      FROM steelyard.topup
"""


async def record_topup(uow: UnitOfWork, topup: Topup) -> None:
    """Write a new, pending top-up."""
    await uow.execute(
        "INSERT INTO steelyard.topup (tenant_id, id, account_id, user_id, amount, currency, requested_by, requested_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        uow.tenant,
        topup.id,
        topup.account,
        topup.user,
        topup.amount,
        topup.currency,
        topup.requested_by,
        topup.requested_at,
    )


async def lock_topup(uow: UnitOfWork, topup: str) -> Topup | None:
    """Return a top-up with its row locked until the unit of work ends."""
    row = await uow.fetchrow(
        _TOPUP + "WHERE tenant_id = $1 AND id = $2 FOR UPDATE", uow.tenant, topup
    )
    return None if row is None else _topup_of(row)


async def find_topup(uow: UnitOfWork, topup: str) -> Topup | None:
    """Return a top-up."""
    row = await uow.fetchrow(_TOPUP + "WHERE tenant_id = $1 AND id = $2", uow.tenant, topup)
    return None if row is None else _topup_of(row)


async def list_topups(
    uow: UnitOfWork,
    *,
    user: UserId | None,
    status: str | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Topup]:
    """Return a page of top-ups, oldest first, of one user or of all, in one state or in any."""
    since, last = after or (None, "")
    rows = await uow.fetch(
        _TOPUP
        + "WHERE tenant_id = $1 AND ($2::text IS NULL OR user_id = $2) AND ($3::text IS NULL OR status = $3) "
        "AND ($4 OR (requested_at, id) > ($5::timestamptz, $6)) ORDER BY requested_at, id LIMIT $7",
        uow.tenant,
        user,
        status,
        after is None,
        since,
        last,
        limit,
    )
    return [_topup_of(row) for row in rows]


async def close_topup(
    uow: UnitOfWork, topup: str, *, status: str, by: str, at: datetime, seq: int | None
) -> None:
    """Write how a top-up was decided."""
    await uow.execute(
        "UPDATE steelyard.topup SET status = $3, processed_by = $4, processed_at = $5, seq = $6 "
        "WHERE tenant_id = $1 AND id = $2 AND status = 'pending'",
        uow.tenant,
        topup,
        status,
        by,
        at,
        seq,
    )


async def list_due_holds(
    database: Database, now: datetime, limit: int
) -> list[tuple[TenantId, TransactionId]]:
    """Return open holds of all tenants whose time is over, the oldest first."""
    rows = await database.fetch("SELECT * FROM steelyard.list_due_holds($1, $2)", now, limit)
    return [
        (TenantId(r["tenant_id"]), TransactionId(AccountId(r["account_id"]), r["seq"]))
        for r in rows
    ]


def _topup_of(row: asyncpg.Record) -> Topup:
    return Topup(
        id=row["id"],
        account=AccountId(row["account_id"]),
        user=UserId(row["user_id"]),
        amount=row["amount"],
        currency=row["currency"],
        status=row["status"],
        requested_by=row["requested_by"],
        requested_at=row["requested_at"],
        processed_by=row["processed_by"],
        processed_at=row["processed_at"],
        seq=row["seq"],
    )
