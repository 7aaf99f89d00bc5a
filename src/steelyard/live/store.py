"""All SQL of the live gateway. It reads; nothing here writes."""

from collections.abc import Sequence

from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.change_rows import event_of_change
from steelyard.runtime.database import Database

Place = tuple[TenantId, AccountId]
Owner = tuple[TenantId, UserId]


async def load_changes_after(
    database: Database, after: Sequence[tuple[TenantId, AccountId, int]], *, limit: int
) -> list[BalanceEvent]:
    """Return the changes of many accounts of many tenants after a position each, as events.

    Returns:
        Account by account, oldest first, at most `limit` of each account.
    """
    if not after:
        return []
    tenants, accounts, seqs = (list(column) for column in zip(*after, strict=True))
    rows = await database.fetch(
        "SELECT * FROM steelyard.read_changes_after($1, $2, $3, $4)", tenants, accounts, seqs, limit
    )
    return [event_of_change(row) for row in rows if row["user_id"] is not None]


async def load_positions(database: Database, places: Sequence[Place]) -> list[tuple[Place, int]]:
    """Return the last `seq` of each account found, of many tenants in one call."""
    if not places:
        return []
    tenants, accounts = (list(column) for column in zip(*places, strict=True))
    rows = await database.fetch(
        "SELECT tenant_id, account_id, seq FROM steelyard.read_balances($1, $2)", tenants, accounts
    )
    return [((TenantId(tenant), AccountId(account)), seq) for tenant, account, seq in rows]


async def load_primary_accounts(
    database: Database, owners: Sequence[Owner]
) -> dict[Owner, AccountId]:
    """Return the account that stands for each user that has one; of many tenants in one call."""
    if not owners:
        return {}
    tenants, users = (list(column) for column in zip(*owners, strict=True))
    rows = await database.fetch(
        "SELECT tenant_id, user_id, account_id FROM steelyard.find_primary_accounts($1, $2)",
        tenants,
        users,
    )
    return {
        (TenantId(row["tenant_id"]), UserId(row["user_id"])): AccountId(row["account_id"])
        for row in rows
    }


async def list_account_ids(
    database: Database, tenant: TenantId, user: UserId, *, limit: int
) -> list[AccountId]:
    """Return the first accounts of a user, by id."""
    async with database.unit_of_work(tenant) as uow:
        rows = await uow.fetch(
            "SELECT id FROM steelyard.account WHERE tenant_id = $1 AND user_id = $2 ORDER BY id LIMIT $3",
            tenant,
            user,
            limit,
        )
    return [AccountId(row["id"]) for row in rows]
