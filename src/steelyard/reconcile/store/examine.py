"""Exact evidence of a few accounts, and what concerns whole books."""

from collections.abc import Sequence

import asyncpg

from steelyard.core.ids import AccountId, UserId
from steelyard.reconcile.model import Evidence
from steelyard.reconcile.store.snapshot import SCAN_DEADLINE_S
from steelyard.runtime.database import UnitOfWork


async def load_evidence(
    uow: UnitOfWork, accounts: Sequence[AccountId], *, witnesses: bool
) -> list[Evidence]:
    """Return the evidence of each account, in id order.

    With `witnesses`, requests and the other sides of transfers are read too: one pass over the tenant.
    """
    rows = await uow.connection.fetch(
        "SELECT * FROM steelyard.examine_accounts($1, $2, $3)",
        uow.tenant,
        list(accounts),
        witnesses,
        timeout=SCAN_DEADLINE_S,
    )
    return [evidence_of(row) for row in rows]


def evidence_of(row: asyncpg.Record) -> Evidence:
    """Read evidence from a row; an account that does not exist has zeros for what is stored."""
    user: str | None = row["user_id"]
    return Evidence(
        account=AccountId(row["account_id"]),
        user=None if user is None else UserId(user),
        kind=row["kind"],
        currency=row["currency"],
        digits=row["digits"] or 0,
        posted=row["posted"] or 0,
        held=row["held"] or 0,
        seq=row["seq"] or 0,
        head=row["head"] or b"",
        total_recharged=row["total_recharged"] or 0,
        total_spent=row["total_spent"] or 0,
        floor=row["floor"] or 0,
        suspended=row["suspended"],
        actual_posted=int(row["actual_posted"]),
        actual_held=int(row["actual_held"]),
        actual_seq=row["actual_seq"],
        actual_head=row["actual_head"],
        actual_recharged=int(row["actual_recharged"]),
        actual_spent=int(row["actual_spent"]),
        gap_seq=row["gap_seq"],
        step_seq=row["step_seq"],
        chain_seq=row["chain_seq"],
        hold_seq=row["hold_seq"],
        operation_seq=row["operation_seq"],
        lost_seq=row["lost_seq"],
        transfer_seq=row["transfer_seq"],
        transfer_with=tuple(AccountId(one) for one in row["transfer_with"] or ()),
        checkpoint_seq=row["checkpoint_seq"],
        checkpoint_problem=row["checkpoint_problem"],
    )


async def list_unbalanced_books(uow: UnitOfWork) -> list[tuple[str, int, int]]:
    """Return (currency, digits, sum in minor units) of every book of the tenant that does not sum to zero."""
    rows = await uow.fetch(
        """
        SELECT a.currency, b.digits, sum(a.posted) AS total FROM steelyard.account a
          JOIN steelyard.book b ON b.tenant_id = a.tenant_id AND b.currency = a.currency
         WHERE a.tenant_id = $1 AND a.kind <> 'mirrored'
         GROUP BY a.currency, b.digits HAVING sum(a.posted) <> 0 ORDER BY a.currency
        """,
        uow.tenant,
    )
    return [(row["currency"], row["digits"], int(row["total"])) for row in rows]


async def count_users(uow: UnitOfWork) -> tuple[int, int]:
    """Return how many users have an account, and how many accounts there are."""
    row = await uow.fetchrow(
        "SELECT count(DISTINCT user_id) AS users, count(*) AS accounts FROM steelyard.account WHERE tenant_id = $1",
        uow.tenant,
    )
    assert row is not None
    return row["users"], row["accounts"]


async def list_account_ids(
    uow: UnitOfWork, *, user: UserId | None = None, after: int = 0, limit: int = 10_000
) -> list[AccountId]:
    """Return a page of account ids in order, of one user or of all."""
    rows = await uow.fetch(
        "SELECT id FROM steelyard.account WHERE tenant_id = $1 AND id > $2 AND ($3::text IS NULL OR user_id = $3) "
        "ORDER BY id LIMIT $4",
        uow.tenant,
        after,
        user,
        limit,
    )
    return [AccountId(row["id"]) for row in rows]


async def list_quarantined(uow: UnitOfWork) -> list[AccountId]:
    """Return the accounts that are suspended because their history does not prove itself."""
    rows = await uow.fetch(
        "SELECT id FROM steelyard.account WHERE tenant_id = $1 AND suspended = 'chain_broken' ORDER BY id",
        uow.tenant,
    )
    return [AccountId(row["id"]) for row in rows]


async def list_dirty_accounts(uow: UnitOfWork) -> list[AccountId]:
    """Return the accounts that are not as their checkpoint has them: moved on, gone back, or edited."""
    rows = await uow.connection.fetch(
        """
        SELECT a.id FROM steelyard.account a
          LEFT JOIN steelyard.checkpoint k ON k.tenant_id = $1 AND k.account_id = a.id
         WHERE a.tenant_id = $1
           AND (a.seq <> coalesce(k.seq, 0) OR a.posted <> coalesce(k.posted, 0) OR a.held <> coalesce(k.held, 0)
                OR a.total_recharged <> coalesce(k.total_recharged, 0) OR a.total_spent <> coalesce(k.total_spent, 0)
                OR a.head <> coalesce(k.hash, $2::bytea))
         ORDER BY a.id
        """,
        uow.tenant,
        bytes(32),
        timeout=SCAN_DEADLINE_S,
    )
    return [AccountId(row["id"]) for row in rows]


async def list_balances_at(
    uow: UnitOfWork, places: Sequence[tuple[AccountId, int]]
) -> dict[AccountId, asyncpg.Record]:
    """Return, for each account and `seq`, the available balance the change there left; None if it is not there."""
    rows = await uow.fetch(
        """
        SELECT u.id, c.balance_after - c.held_after AS available, a.seq, a.user_id, a.currency, b.digits
          FROM unnest($2::bigint[], $3::bigint[]) AS u (id, seq)
          JOIN steelyard.account a ON a.tenant_id = $1 AND a.id = u.id
          JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
          LEFT JOIN steelyard.change c ON c.tenant_id = $1 AND c.account_id = u.id AND c.seq = u.seq
        """,
        uow.tenant,
        [account for account, _ in places],
        [seq for _, seq in places],
    )
    return {AccountId(row["id"]): row for row in rows}
