"""The written side: each is one call of a function that works out the truth itself."""

from collections.abc import Sequence
from datetime import datetime

from steelyard.access.model import Principal
from steelyard.core.ids import AccountId, UserId
from steelyard.reconcile.model import Fixed, FixOutcome
from steelyard.reconcile.store.snapshot import SCAN_DEADLINE_S
from steelyard.runtime.database import UnitOfWork


async def fix_accounts(
    uow: UnitOfWork,
    accounts: Sequence[AccountId],
    *,
    witnesses: bool,
    actor: Principal,
    now: datetime,
    request_id: str | None = None,
) -> list[Fixed]:
    """Repair or quarantine accounts; what was sound is not in the answer. Audited in the same unit of work.

    Locks the accounts' rows in id order until `uow` ends.
    """
    rows = await uow.connection.fetch(
        "SELECT * FROM steelyard.fix_accounts($1, $2, $3, $4, $5, $6, $7)",
        now,
        uow.tenant,
        list(accounts),
        witnesses,
        actor.subject,
        str(actor.role),
        request_id,
        timeout=SCAN_DEADLINE_S,
    )
    return [
        Fixed(
            account=AccountId(row["account_id"]),
            outcome=FixOutcome(row["outcome"]),
            user=None if row["user_id"] is None else UserId(row["user_id"]),
            currency=row["currency"],
            digits=row["digits"],
            posted_before=row["posted_before"],
            held_before=row["held_before"],
            posted=row["posted"],
            held=row["held"],
            seq=row["seq"],
            restored=row["restored"],
        )
        for row in rows
    ]


async def advance_checkpoints(
    uow: UnitOfWork, accounts: Sequence[AccountId], *, now: datetime
) -> list[AccountId]:
    """Prove what is new of each account and move its checkpoint there. Returns those it could not prove."""
    unproved = await uow.connection.fetchval(
        "SELECT steelyard.advance_checkpoints($1, $2, $3)",
        now,
        uow.tenant,
        list(accounts),
        timeout=SCAN_DEADLINE_S,
    )
    return [AccountId(account) for account in unproved]
