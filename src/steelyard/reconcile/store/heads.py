"""Heads for anchors."""

from collections.abc import Sequence

import asyncpg

from steelyard.core.ids import AccountId
from steelyard.reconcile.store.snapshot import SCAN_DEADLINE_S
from steelyard.runtime.database import UnitOfWork


async def list_heads(
    uow: UnitOfWork, *, after: int, limit: int
) -> list[tuple[AccountId, int, bytes]]:
    """Return a page of (account, seq, hash of the change there) in id order; accounts without changes are left out."""
    rows = await uow.connection.fetch(
        """
        SELECT a.id, c.seq, c.hash FROM steelyard.account a
          JOIN steelyard.change c ON c.tenant_id = $1 AND c.account_id = a.id AND c.seq = a.seq
         WHERE a.tenant_id = $1 AND a.id > $2 ORDER BY a.id LIMIT $3
        """,
        uow.tenant,
        after,
        limit,
        timeout=SCAN_DEADLINE_S,
    )
    return [(AccountId(row["id"]), row["seq"], row["hash"]) for row in rows]


async def list_lost_heads(
    uow: UnitOfWork, accounts: Sequence[int], seqs: Sequence[int], hashes: Sequence[bytes]
) -> list[asyncpg.Record]:
    """Return the heads whose change is gone or has another hash."""
    return await uow.connection.fetch(
        """
        SELECT u.id AS account_id, u.seq, c.seq IS NULL AS is_gone, a.user_id, a.currency, b.digits
          FROM unnest($2::bigint[], $3::bigint[], $4::bytea[]) AS u (id, seq, hash)
          LEFT JOIN steelyard.change c ON c.tenant_id = $1 AND c.account_id = u.id AND c.seq = u.seq
          LEFT JOIN steelyard.account a ON a.tenant_id = $1 AND a.id = u.id
          LEFT JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
         WHERE c.hash IS DISTINCT FROM u.hash ORDER BY u.id
        """,
        uow.tenant,
        accounts,
        seqs,
        hashes,
        timeout=SCAN_DEADLINE_S,
    )
