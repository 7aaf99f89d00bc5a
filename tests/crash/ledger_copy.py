"""The ledger as it stands afterwards, read by a superuser whom no wall stops."""

from dataclasses import dataclass

import msgspec
from msgspec import Struct

from steelyard.runtime.database import connect


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account."""

    id: int
    kind: str
    currency: str
    posted: int
    held: int
    floor: int
    seq: int
    head: bytes
    total_recharged: int
    total_spent: int
    suspended: str | None


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One numbered step. `posted_us` is microseconds since 1970."""

    tenant: str
    account: int
    seq: int
    kind: str
    amount: int
    held_amount: int
    balance_after: int
    held_after: int
    contra: int | None
    contra_seq: int | None
    target: int | None
    posted_us: int
    details: str | None
    xid: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One key and the place of its outcome."""

    key: str
    account: int
    seq: int


@dataclass(frozen=True, slots=True)
class HoldRow:
    """One hold."""

    account: int
    seq: int
    amount: int
    captured: int
    status: str


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """All of one tenant's money. Changes come in order of account and `seq`."""

    accounts: dict[int, AccountRow]
    changes: list[ChangeRow]
    operations: list[OperationRow]
    holds: list[HoldRow]


async def load_ledger(admin_url: str, tenant: str) -> LedgerCopy:
    """Read everything at one moment."""
    connection = await connect(admin_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            accounts = await connection.fetch(
                "SELECT id, kind, currency, posted, held, floor, seq, head, total_recharged, total_spent, suspended "
                "FROM steelyard.account WHERE tenant_id = $1",
                tenant,
            )
            changes = await connection.fetch(
                "SELECT tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after, contra_id, "
                "contra_seq, target_seq, (extract(epoch FROM posted_at) * 1000000)::bigint, details::text, "
                "xid::text::bigint, hash FROM steelyard.change WHERE tenant_id = $1 ORDER BY account_id, seq",
                tenant,
            )
            operations = await connection.fetch(
                "SELECT key, account_id, seq FROM steelyard.operation WHERE tenant_id = $1", tenant
            )
            holds = await connection.fetch(
                "SELECT account_id, seq, amount, captured, status FROM steelyard.hold WHERE tenant_id = $1",
                tenant,
            )
    finally:
        await connection.close(timeout=5)
    return LedgerCopy(
        {row["id"]: AccountRow(*row) for row in accounts},
        [ChangeRow(*row) for row in changes],
        [OperationRow(*row) for row in operations],
        [HoldRow(*row) for row in holds],
    )


class _Details(Struct):
    """What may stand in the details of a change."""

    description: str | None = None
    postings: int = 0


_decode = msgspec.json.Decoder(_Details).decode


def key_in(change: ChangeRow) -> str | None:
    """Return the key that a change itself names, whatever the table of keys says."""
    description = _decode(change.details).description if change.details else None
    return description.removeprefix("key ") if description else None


def postings_in(change: ChangeRow) -> int:
    """Return how many postings a change of the books says it sums up."""
    return _decode(change.details).postings if change.details else 0
