"""All SQL of mirrored accounts."""

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from steelyard.core.errors import NotFound
from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency
from steelyard.mirror.model import Customer, KnownAccount, MirroredAccount, NewMirroredAccount
from steelyard.mirror.standing import AccountStanding, UserStanding
from steelyard.runtime.database import UnitOfWork

_ACCOUNTS = """
    SELECT m.account_id, m.user_id, m.provider, m.number, m.is_active, m.read_at, a.is_primary, a.posted, a.currency, b.digits
      FROM unnest($2::text[]) AS u (id)
      JOIN steelyard.app_user w ON w.tenant_id = $1 AND w.id = u.id
       AND w.context = 'MOBILE_BANKING' AND w.status = 'active'
      JOIN steelyard.mirrored_account m ON m.tenant_id = $1 AND m.user_id = u.id AND m.provider = $3
      JOIN steelyard.account a ON a.tenant_id = $1 AND a.id = m.account_id
      JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
     WHERE m.is_active ORDER BY m.user_id, a.is_primary DESC, m.account_id
"""
_STANDINGS = """
    SELECT w.id, w.status, w.context, coalesce(m.accounts, 0) AS accounts FROM steelyard.app_user w
      LEFT JOIN LATERAL (SELECT count(*)::int AS accounts FROM steelyard.mirrored_account m
                          WHERE m.tenant_id = $1 AND m.user_id = w.id AND m.provider = $3 AND m.is_active) m ON true
     WHERE w.tenant_id = $1 AND w.id = ANY ($2)
"""

_CUSTOMERS = """
    SELECT w.id, w.status, w.context, w.customer_number, w.display_name FROM steelyard.app_user w
     WHERE w.tenant_id = $1 AND w.id = ANY ($2)
"""
# OFFSET 0: each row is looked up by its whole key. With few statistics a plan for all of them walks the tenant's.
_KNOWN = """
    SELECT m.account_id, u.id AS user_id, m.number, m.account_type, m.is_active, m.read_at IS NOT NULL AS is_read,
           a.is_primary, a.currency, b.digits
      FROM unnest($2::text[]) AS u (id)
     CROSS JOIN LATERAL (SELECT x.* FROM steelyard.mirrored_account x
                          WHERE x.tenant_id = $1 AND x.user_id = u.id AND x.provider = $3 OFFSET 0) m
     CROSS JOIN LATERAL (SELECT x.* FROM steelyard.account x WHERE x.tenant_id = $1 AND x.id = m.account_id OFFSET 0) a
      JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
     ORDER BY m.is_active, m.account_id
"""
_HOLDERS = """
    SELECT u.number, m.user_id FROM unnest($3::text[]) AS u (number)
     CROSS JOIN LATERAL (SELECT x.user_id FROM steelyard.mirrored_account x
                          WHERE x.tenant_id = $1 AND x.provider = $2 AND x.number = u.number OFFSET 0) m
"""
_SET_CUSTOMERS = """
    UPDATE steelyard.app_user w SET context = u.context, customer_number = u.customer_number
      FROM unnest($2::text[], $3::text[], $4::text[]) AS u (id, context, customer_number)
     WHERE w.tenant_id = $1 AND w.id = u.id
"""

_USERS = """
    WITH page AS MATERIALIZED (
        SELECT m.user_id FROM steelyard.mirrored_account m
          JOIN steelyard.app_user w ON w.tenant_id = $1 AND w.id = m.user_id
           AND w.context = 'MOBILE_BANKING' AND w.status = 'active'
         WHERE m.tenant_id = $1 AND m.provider = $2 AND m.is_active AND m.user_id > $3
           AND ($4::text IS NULL OR m.user_id = $4)
         GROUP BY m.user_id ORDER BY m.user_id LIMIT $5)
    SELECT p.user_id, w.display_name, m.account_id, m.account_type, m.read_at, right(m.number, 2) AS ending,
           a.is_primary, a.posted - a.held AS balance, a.seq, a.currency, b.digits,
           coalesce(t.is_paused, false) AS is_paused, t.last_result
      FROM page p
      JOIN steelyard.app_user w ON w.tenant_id = $1 AND w.id = p.user_id
      JOIN steelyard.mirrored_account m ON m.tenant_id = $1 AND m.user_id = p.user_id AND m.provider = $2 AND m.is_active
      JOIN steelyard.account a ON a.tenant_id = $1 AND a.id = m.account_id
      JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
      LEFT JOIN steelyard.sync_target t ON t.tenant_id = $1 AND t.provider = $2 AND t.kind = 'update-balances'
       AND t.subject = p.user_id
     ORDER BY p.user_id, a.is_primary DESC, m.account_id
"""


async def open_accounts(
    uow: UnitOfWork, accounts: Sequence[NewMirroredAccount], *, now: datetime
) -> list[tuple[AccountId, bool]]:
    """Open mirrored accounts, or bring those there are to what is said of them. Returns id and whether it is new.

    Raises:
        NotFound: A user does not exist, or the tenant keeps no book in a currency.
    """
    try:
        row = await uow.fetchrow(
            "SELECT * FROM steelyard.open_mirrored_accounts($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            now,
            uow.tenant,
            [account.user for account in accounts],
            [account.provider for account in accounts],
            [account.number for account in accounts],
            [account.currency.code for account in accounts],
            [account.account_type for account in accounts],
            [account.is_primary for account in accounts],
            [account.is_active for account in accounts],
        )
        await uow.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.ForeignKeyViolationError as error:
        kind = "book" if "currency" in str(error.constraint_name) else "user"
        named = accounts[0].user if kind == "user" else accounts[0].currency.code
        named = named if len(accounts) == 1 else "of these accounts"
        raise NotFound(kind=kind, identifier=named) from error
    assert row is not None
    return [
        (AccountId(found), opened)
        for found, opened in zip(row["r_id"], row["r_opened"], strict=True)
    ]


async def set_context(uow: UnitOfWork, users: Sequence[UserId], context: str) -> list[UserId]:
    """Say where users have their money: `MOBILE_BANKING` or `WALLET`. Returns those there are."""
    rows = await uow.fetch(
        "UPDATE steelyard.app_user SET context = $3 WHERE tenant_id = $1 AND id = ANY ($2) RETURNING id",
        uow.tenant,
        list(users),
        context,
    )
    return [UserId(row["id"]) for row in rows]


async def load_standings(
    uow: UnitOfWork, users: Sequence[UserId], provider: str
) -> dict[UserId, tuple[str, str, int]]:
    """Return status, context and number of active accounts at `provider` of each user there is."""
    rows = await uow.fetch(_STANDINGS, uow.tenant, list(users), provider)
    return {UserId(row["id"]): (row["status"], row["context"], row["accounts"]) for row in rows}


async def load_accounts(
    uow: UnitOfWork, users: Sequence[UserId], provider: str
) -> dict[UserId, list[MirroredAccount]]:
    """Return the active accounts at `provider` of those of the users who may be synced, the primary one first."""
    found: dict[UserId, list[MirroredAccount]] = {}
    for row in await uow.fetch(_ACCOUNTS, uow.tenant, list(users), provider):
        account = MirroredAccount(
            account=AccountId(row["account_id"]),
            user=UserId(row["user_id"]),
            provider=row["provider"],
            number=row["number"],
            currency=Currency(row["currency"], row["digits"]),
            is_primary=row["is_primary"],
            is_active=row["is_active"],
            posted=row["posted"],
            read_at=row["read_at"],
        )
        found.setdefault(account.user, []).append(account)
    return found


async def lock_enrolment(uow: UnitOfWork) -> None:
    """Wait until nobody else enrolls customers of the tenant; until `uow` ends nobody does."""
    await uow.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('steelyard.enroll|' || $1::text, 0))",
        uow.tenant,
    )


async def plan_by_averages(uow: UnitOfWork) -> None:
    """Let queries of `uow` be planned for an average tenant.

    Planned for one that came after the newest statistics, which then count none of its rows, they walk all of them.
    """
    await uow.execute("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)")


async def load_customers(uow: UnitOfWork, users: Sequence[UserId]) -> dict[UserId, Customer]:
    """Return each of the users there is, as a customer."""
    rows = await uow.fetch(_CUSTOMERS, uow.tenant, list(users))
    return {
        UserId(row["id"]): Customer(
            UserId(row["id"]),
            row["status"] == "active",
            row["context"],
            row["customer_number"],
            row["display_name"],
        )
        for row in rows
    }


async def load_known_accounts(
    uow: UnitOfWork, users: Sequence[UserId], provider: str
) -> dict[UserId, dict[str, KnownAccount]]:
    """Return all accounts at `provider` of the users, active or not, by user and number; of two, the active one."""
    found: dict[UserId, dict[str, KnownAccount]] = {}
    for row in await uow.fetch(_KNOWN, uow.tenant, list(users), provider):
        user, currency = UserId(row["user_id"]), Currency(row["currency"], row["digits"])
        found.setdefault(user, {})[row["number"]] = KnownAccount(
            AccountId(row["account_id"]),
            user,
            row["number"],
            currency,
            row["account_type"],
            row["is_primary"],
            row["is_active"],
            row["is_read"],
        )
    return found


async def load_holders(
    uow: UnitOfWork, numbers: Sequence[str], provider: str
) -> dict[str, frozenset[UserId]]:
    """Return who has an account of each number at `provider`."""
    found: dict[str, frozenset[UserId]] = {}
    for row in await uow.fetch(_HOLDERS, uow.tenant, provider, list(numbers)):
        found[row["number"]] = found.get(row["number"], frozenset()) | {UserId(row["user_id"])}
    return found


async def write_accounts(
    uow: UnitOfWork, accounts: Sequence[KnownAccount], provider: str, *, now: datetime
) -> list[AccountId]:
    """Open accounts that have no id yet and bring the others to what is said of them, all at once. Returns their ids.

    Users and books must be there. Locks the accounts there are in id order until `uow` ends. None may come twice.
    """
    if not accounts:
        return []
    ids = await uow.fetchval(
        "SELECT steelyard.write_mirrored_accounts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        now,
        uow.tenant,
        provider,
        [one.account for one in accounts],
        [one.user for one in accounts],
        [one.number for one in accounts],
        [one.currency.code for one in accounts],
        [one.account_type for one in accounts],
        [one.is_primary for one in accounts],
        [one.is_active for one in accounts],
    )
    return [AccountId(one) for one in ids]


async def set_customers(uow: UnitOfWork, customers: Sequence[Customer]) -> None:
    """Write context and customer number of users there are; in the order of their ids."""
    await uow.execute(
        _SET_CUSTOMERS,
        uow.tenant,
        [one.user for one in customers],
        [one.context for one in customers],
        [one.customer_number for one in customers],
    )


async def list_users(
    uow: UnitOfWork, provider: str, *, after: UserId | None, only: UserId | None, limit: int
) -> list[UserStanding]:
    """Return users who may be synced at `provider`, by id, with what was read and what their targets say."""
    found: dict[UserId, UserStanding] = {}
    for row in await uow.fetch(_USERS, uow.tenant, provider, after or "", only, limit):
        account = AccountStanding(
            account=AccountId(row["account_id"]),
            currency=Currency(row["currency"], row["digits"]),
            balance=row["balance"],
            seq=row["seq"],
            read_at=row["read_at"],
            is_primary=row["is_primary"],
            account_type=row["account_type"],
            ending=row["ending"],
        )
        user = UserId(row["user_id"])
        known = found.get(user)
        found[user] = UserStanding(
            user,
            row["display_name"],
            (*(known.accounts if known else ()), account),
            is_paused=row["is_paused"],
            last_result=row["last_result"],
        )
    return list(found.values())
