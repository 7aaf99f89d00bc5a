"""All SQL of accounts and changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from steelyard.balances.model import Account, Balance, Change, NewAccount
from steelyard.core.errors import NotFound
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.core.money import Currency
from steelyard.runtime.database import Connection, Database, UnitOfWork

_ACCOUNT = """
    SELECT a.tenant_id, a.id AS account_id, a.user_id, a.kind, a.currency, b.digits, a.posted, a.held, a.floor, a.seq,
           a.suspended, a.as_of, a.reference, a.name, a.is_primary, a.opened_at, a.total_recharged, a.total_spent
      FROM steelyard.account a JOIN steelyard.book b ON b.tenant_id = a.tenant_id AND b.currency = a.currency
"""
_CHANGE = """
    SELECT account_id, seq, kind, amount, held_amount, balance_after, held_after, contra_id, contra_seq, target_seq,
           posted_at, details::text AS details FROM steelyard.change
"""


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Requests of one batch, column by column, as `steelyard.post_batch` takes them.

    None for a column says that no request has any.
    """

    tenants: list[str]
    keys: list[str]
    body_hashes: list[bytes]
    kinds: list[str]
    accounts: list[int]
    counters: list[int | None] | None
    amounts: list[int | None]
    targets: list[int | None] | None
    expires_at: list[datetime | None] | None
    forced: list[bool] | None
    details: list[str | None] | None
    keys_repeat: bool
    """Whether a key stands twice. The database refuses the whole batch where this says no and one does."""


# Arrays that every batch has go as text: the driver takes 4.6 µs for one request's elements, this takes 1.4.
_POST_BATCH = """
    SELECT * FROM steelyard.post_batch($1, $2::text::text[], $3::text::text[], $4::text::bytea[], $5::text::text[],
        $6::text::bigint[], $7, $8::text::bigint[], $9, $10, $11, $12::text::text[], $13, $14)
"""


def array_of_texts(values: Sequence[str | None]) -> str:
    """Write texts as PostgreSQL reads an array. Each stands in quotes, so only \\ and " mean something in it.

    Source: PostgreSQL documentation, "Array Input and Output Syntax".
    """
    quoted = [
        "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for value in values
    ]
    return "{" + ",".join(quoted) + "}"


def array_of_integers(values: Sequence[int | None]) -> str:
    """Write integers as PostgreSQL reads an array; what is no integer is refused with TypeError or ValueError."""
    return "{" + ",".join(["NULL" if value is None else f"{value:d}" for value in values]) + "}"


async def post_batch(
    connection: Connection, now: datetime, columns: BatchColumns, *, own_transaction: bool = False
) -> asyncpg.Record:
    """Decide and write one batch: the only way held money moves.

    Locks the accounts in id order until the caller's transaction ends (on a bare connection: at once).
    With `own_transaction` the books' accounts, which are everybody's, are locked at its commit only.

    Returns:
        The record of `r_` arrays described at the function.
    Source: docs/decisions/0001.
    """
    row = await connection.fetchrow(
        _POST_BATCH,
        now,
        array_of_texts(columns.tenants),
        array_of_texts(columns.keys),
        array_of_texts(["\\x" + body_hash.hex() for body_hash in columns.body_hashes]),
        array_of_texts(columns.kinds),
        array_of_integers(columns.accounts),
        columns.counters,
        array_of_integers(columns.amounts),
        columns.targets,
        columns.expires_at,
        columns.forced,
        None if columns.details is None else array_of_texts(columns.details),
        own_transaction,
        columns.keys_repeat,
    )
    assert row is not None
    return row


async def open_book(uow: UnitOfWork, currency: Currency, *, now: datetime) -> bool:
    """Open the tenant's book in a currency with its three own accounts. Returns whether it was new."""
    return bool(
        await uow.fetchval(
            "SELECT steelyard.open_book($1, $2, $3, $4)",
            now,
            uow.tenant,
            currency.code,
            currency.digits,
        )
    )


async def list_books(uow: UnitOfWork) -> list[Currency]:
    """Return the currencies the tenant keeps books in."""
    rows = await uow.fetch(
        "SELECT currency, digits FROM steelyard.book WHERE tenant_id = $1 ORDER BY 1", uow.tenant
    )
    return [Currency(row["currency"], row["digits"]) for row in rows]


async def open_accounts(
    uow: UnitOfWork, accounts: Sequence[NewAccount], *, now: datetime
) -> list[tuple[AccountId, bool]]:
    """Open held accounts, in order; one whose reference exists already answers that account's id.

    Returns:
        For each: its id, and whether it was opened now.
    Raises:
        NotFound: A user does not exist, or the tenant keeps no book in a currency.
    """
    await _check_opened_for(uow, accounts)
    try:
        row = await uow.fetchrow(
            "SELECT * FROM steelyard.open_accounts($1, $2, $3, $4, $5, $6, $7, $8)",
            now,
            uow.tenant,
            [account.user for account in accounts],
            [account.currency.code for account in accounts],
            [account.reference for account in accounts],
            [account.name for account in accounts],
            [account.floor for account in accounts],
            [account.is_primary for account in accounts],
        )
        await uow.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.ForeignKeyViolationError as error:
        # Looked for above, so it went away just now; under row-level security the database does not say which.
        kind = "book" if "currency" in str(error.constraint_name) else "user"
        raise NotFound(kind=kind, identifier="of these accounts") from error
    assert row is not None
    return [
        (AccountId(found), opened)
        for found, opened in zip(row["r_id"], row["r_opened"], strict=True)
    ]


async def _check_opened_for(uow: UnitOfWork, accounts: Sequence[NewAccount]) -> None:
    row = await uow.fetchrow(
        """
        SELECT (SELECT u.id FROM unnest($2::text[]) AS u (id) WHERE NOT EXISTS (
                    SELECT FROM steelyard.app_user a WHERE a.tenant_id = $1 AND a.id = u.id) LIMIT 1) AS user_id,
               (SELECT c.code FROM unnest($3::text[]) AS c (code) WHERE NOT EXISTS (
                    SELECT FROM steelyard.book b WHERE b.tenant_id = $1 AND b.currency = c.code) LIMIT 1) AS currency
        """,
        uow.tenant,
        list({account.user for account in accounts}),
        list({account.currency.code for account in accounts}),
    )
    assert row is not None
    if row["user_id"] is not None:
        raise NotFound(kind="user", identifier=row["user_id"])
    if row["currency"] is not None:
        raise NotFound(kind="book", identifier=row["currency"])


async def set_floor(uow: UnitOfWork, account: AccountId, floor: int, *, now: datetime) -> None:
    """Set the least available balance; below it the account is suspended, at or above it that ends.

    Raises:
        NotFound: No such held account in this tenant.
    """
    if not await uow.fetchval(
        "SELECT steelyard.set_floor($1, $2, $3, $4)", now, uow.tenant, account, floor
    ):
        raise NotFound(kind="account", identifier=str(account))


async def find_account(uow: UnitOfWork, account: AccountId) -> Account | None:
    """Return the account, or None where the tenant has none with this id."""
    row = await uow.fetchrow(_ACCOUNT + "WHERE a.tenant_id = $1 AND a.id = $2", uow.tenant, account)
    return None if row is None else account_of(row)


async def find_account_by_reference(uow: UnitOfWork, reference: str) -> Account | None:
    """Return the account the tenant opened under this reference."""
    row = await uow.fetchrow(
        _ACCOUNT + "WHERE a.tenant_id = $1 AND a.reference = $2", uow.tenant, reference
    )
    return None if row is None else account_of(row)


async def list_accounts(
    uow: UnitOfWork,
    *,
    user: UserId | None = None,
    kind: str | None = None,
    after: AccountId | None = None,
    limit: int = 100,
) -> list[Account]:
    """Return a page of accounts by id, of one user or of all, of one kind (`held`, `mirrored`) or of each."""
    rows = await uow.fetch(
        _ACCOUNT + "WHERE a.tenant_id = $1 AND a.id > $2 AND ($3::text IS NULL OR a.user_id = $3) "
        "AND ($5::text IS NULL OR a.kind = $5) ORDER BY a.id LIMIT $4",
        uow.tenant,
        after or 0,
        user,
        limit,
        kind,
    )
    return [account_of(row) for row in rows]


async def find_change(uow: UnitOfWork, account: AccountId, seq: int) -> Change | None:
    """Return one change of an account."""
    row = await uow.fetchrow(
        _CHANGE + "WHERE tenant_id = $1 AND account_id = $2 AND seq = $3", uow.tenant, account, seq
    )
    return None if row is None else change_of(row)


async def list_changes_since(
    uow: UnitOfWork, account: AccountId, *, after_seq: int, limit: int
) -> list[Change]:
    """Return the changes after a position, oldest first."""
    rows = await uow.fetch(
        _CHANGE + "WHERE tenant_id = $1 AND account_id = $2 AND seq > $3 ORDER BY seq LIMIT $4",
        uow.tenant,
        account,
        after_seq,
        limit,
    )
    return [change_of(row) for row in rows]


async def list_history(
    uow: UnitOfWork, account: AccountId, *, before_seq: int | None = None, limit: int
) -> list[Change]:
    """Return the changes before a position, newest first; the newest of all without one."""
    rows = await uow.fetch(
        _CHANGE
        + "WHERE tenant_id = $1 AND account_id = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4",
        uow.tenant,
        account,
        before_seq if before_seq is not None else 2**62,
        limit,
    )
    return [change_of(row) for row in rows]


async def load_balances(
    database: Database, wanted: Sequence[tuple[TenantId, AccountId]]
) -> list[Balance]:
    """Return the balances found, of any tenants, in one call."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.read_balances($1, $2)",
        [tenant for tenant, _ in wanted],
        [account for _, account in wanted],
    )
    return [balance_of(row) for row in rows]


async def load_currencies(uow: UnitOfWork, first: int, last: int) -> list[tuple[AccountId, str]]:
    """Return each of the tenant's accounts whose id lies from `first` to `last`, with its currency code."""
    rows = await uow.fetch(
        "SELECT id, currency FROM steelyard.account WHERE tenant_id = $1 AND id BETWEEN $2 AND $3",
        uow.tenant,
        first,
        last,
    )
    return [(AccountId(row["id"]), row["currency"]) for row in rows]


async def find_primary_account(
    database: Database, tenant: TenantId, user: UserId
) -> AccountId | None:
    """Return the user's primary account: the held one, else the one flagged, else the first."""
    found = await find_primary_accounts(database, [(tenant, user)])
    return found.get((tenant, user))


async def find_primary_accounts(
    database: Database, users: Sequence[tuple[TenantId, UserId]]
) -> dict[tuple[TenantId, UserId], AccountId]:
    """Return the primary accounts of users of any tenants, in one call; those without any are not in the answer."""
    rows = await database.fetch(
        "SELECT tenant_id, user_id, account_id FROM steelyard.find_primary_accounts($1, $2)",
        [tenant for tenant, _ in users],
        [user for _, user in users],
    )
    return {
        (TenantId(row["tenant_id"]), UserId(row["user_id"])): AccountId(row["account_id"])
        for row in rows
    }


def balance_of(row: asyncpg.Record) -> Balance:
    """Read a balance from a row."""
    return Balance(
        tenant=TenantId(row["tenant_id"]),
        account=AccountId(row["account_id"]),
        user=None if row["user_id"] is None else UserId(row["user_id"]),
        kind=row["kind"],
        currency=Currency(row["currency"], row["digits"]),
        posted=row["posted"],
        held=row["held"],
        floor=row["floor"],
        seq=row["seq"],
        suspended=row["suspended"],
        as_of=row["as_of"],
    )


def account_of(row: asyncpg.Record) -> Account:
    """Read an account from a row."""
    return Account(
        balance=balance_of(row),
        reference=row["reference"],
        name=row["name"],
        is_primary=row["is_primary"],
        opened_at=row["opened_at"],
        total_recharged=row["total_recharged"],
        total_spent=row["total_spent"],
    )


def change_of(row: asyncpg.Record) -> Change:
    """Read a change from a row."""
    return Change(
        account=AccountId(row["account_id"]),
        seq=row["seq"],
        kind=row["kind"],
        amount=row["amount"],
        held_amount=row["held_amount"],
        balance_after=row["balance_after"],
        held_after=row["held_after"],
        contra=None if row["contra_id"] is None else AccountId(row["contra_id"]),
        contra_seq=row["contra_seq"],
        target_seq=row["target_seq"],
        posted_at=row["posted_at"],
        details=row["details"],
    )


async def find_unlocked(
    connection: Connection, places: Sequence[tuple[TenantId, AccountId]]
) -> set[AccountId]:
    """Return which of these accounts nobody holds a lock on at this moment. Keeps no lock itself."""
    free = await connection.fetchval(
        "SELECT steelyard.find_unlocked($1, $2)",
        [tenant for tenant, _ in places],
        [account for _, account in places],
    )
    return {AccountId(account) for account in free}


async def sum_amounts_under(uow: UnitOfWork, key_prefix: str) -> dict[AccountId, int]:
    """Return, per account, the sum of what operations whose key begins with `key_prefix` posted, minor units."""
    rows = await uow.fetch(
        """
        SELECT o.account_id, sum(c.amount)::bigint AS amount
          FROM steelyard.operation o
          JOIN steelyard.change c ON c.tenant_id = o.tenant_id AND c.account_id = o.account_id AND c.seq = o.seq
         WHERE o.tenant_id = $1 AND o.key >= $2 AND o.key < $2 || chr(1114109)
         GROUP BY o.account_id
        """,
        uow.tenant,
        key_prefix,
    )
    return {AccountId(row["account_id"]): row["amount"] for row in rows}


async def mirror_balances(
    uow: UnitOfWork, rows: Sequence[tuple[AccountId, int, datetime, str]], *, now: datetime
) -> list[asyncpg.Record]:
    """Write readings (account, minor units, read at, JSON of all kinds): the only way mirrored balances move.

    Returns:
        One row per change, as `event_of_change` reads it; unchanged readings give none.
    """
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], [], []]
    return await uow.fetch(
        "SELECT * FROM steelyard.mirror_balances($1, $2, $3, $4, $5, $6)", now, uow.tenant, *columns
    )
