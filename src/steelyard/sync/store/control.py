"""All SQL of what operators do and see: pauses, cancelling, what waits at each source, and how one user stands."""

import json
from collections.abc import Sequence
from datetime import datetime

import asyncpg

from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency
from steelyard.jobs.model import State
from steelyard.runtime.database import UnitOfWork
from steelyard.sync.model import AccountState, DueTier, Pause, Priority, RunLine, TargetState

CANCELLED = {
    "code": "cancelled",
    "message": "somebody cancelled it; what it had not written is unchanged",
}

_PAUSE_SOURCE = """
    UPDATE steelyard.provider_budget SET paused_at = $3, paused_by = $4, pause_reason = $5
     WHERE tenant_id = $1 AND provider = $2 AND paused_at IS NULL
"""
_RESUME_SOURCE = """
    UPDATE steelyard.provider_budget SET paused_at = NULL, paused_by = NULL, pause_reason = NULL
     WHERE tenant_id = $1 AND provider = $2 AND paused_at IS NOT NULL
"""
_PAUSE_TARGET = """
    UPDATE steelyard.sync_target SET is_paused = true, paused_at = $5, paused_by = $6, pause_reason = $7
     WHERE tenant_id = $1 AND provider = $2 AND kind = $3 AND subject = $4 AND NOT is_paused
"""
_RESUME_TARGET = """
    UPDATE steelyard.sync_target SET is_paused = false, paused_at = NULL, paused_by = NULL, pause_reason = NULL
     WHERE tenant_id = $1 AND provider = $2 AND kind = $3 AND subject = $4 AND is_paused
"""
# A lease in flight is kept, so that nobody asks for the user beside it; its number is raised, so that it writes nothing.
_CANCEL = """
    WITH target AS MATERIALIZED (
        SELECT t.*, coalesce(t.lease_until > $4, false) AS is_in_flight FROM steelyard.sync_target t
         WHERE t.tenant_id = $1 AND t.kind = $2 AND t.subject = $3 AND (t.run_id IS NOT NULL OR t.again_run_id IS NOT NULL)
           FOR NO KEY UPDATE),
    cancelled AS (
        UPDATE steelyard.sync_target t
           SET run_id = NULL, again_run_id = NULL, again = false, again_priority = 0, again_asked_priority = 0,
               asked_priority = 0, waited_until = NULL, attempts = 0, priority = 0, last_result = 'cancelled',
               cancelled_token = CASE WHEN o.is_in_flight THEN coalesce(t.cancelled_token, t.lease_token) END,
               lease_token = CASE WHEN o.is_in_flight AND t.cancelled_token IS NOT NULL THEN t.lease_token
                                  ELSE t.lease_token + 1 END,
               lease_until = CASE WHEN o.is_in_flight THEN t.lease_until END,
               leased_by = CASE WHEN o.is_in_flight THEN t.leased_by END,
               due_at = CASE WHEN o.is_in_flight THEN t.due_at ELSE $5 END
          FROM target o WHERE t.tenant_id = $1 AND t.kind = o.kind AND t.subject = o.subject)
    UPDATE steelyard.run r SET state = 'cancelled', finished_at = $4, error = $6::json
      FROM target o WHERE r.tenant_id = $1 AND r.id IN (o.run_id, o.again_run_id) AND r.finished_at IS NULL
"""
_TARGET = """
    SELECT due_at, priority, lease_until, leased_by, attempts, run_id, again_run_id, last_result, last_success_at,
           last_login_at, paused_at, paused_by, pause_reason, is_paused
      FROM steelyard.sync_target WHERE tenant_id = $1 AND kind = $2 AND subject = $3
"""
_ACCOUNTS = """
    SELECT m.account_id, m.account_type, m.is_active, m.read_at, right(m.number, 2) AS ending, a.is_primary, a.posted, a.as_of,
           a.currency, b.digits
      FROM steelyard.mirrored_account m
      JOIN steelyard.account a ON a.tenant_id = $1 AND a.id = m.account_id
      JOIN steelyard.book b ON b.tenant_id = $1 AND b.currency = a.currency
     WHERE m.tenant_id = $1 AND m.user_id = $2 AND m.provider = $3
     ORDER BY m.is_active DESC, a.is_primary DESC, m.account_id LIMIT $4
"""
_RUNS = """
    SELECT id, state, priority, attempts, created_at, finished_at, error ->> 'code' AS code, error ->> 'message' AS message
      FROM steelyard.run WHERE tenant_id = $1 AND subject = $2 AND kind = $3
     ORDER BY created_at DESC, id DESC LIMIT $4
"""


async def pause_source(
    uow: UnitOfWork, provider: str, *, actor: str, reason: str | None, now: datetime
) -> bool:
    """Grant nothing more at a source of the tenant. Returns whether that is new."""
    return _changed(await uow.execute(_PAUSE_SOURCE, uow.tenant, provider, now, actor, reason))


async def resume_source(uow: UnitOfWork, provider: str) -> bool:
    """Grant again. Returns whether it was paused."""
    return _changed(await uow.execute(_RESUME_SOURCE, uow.tenant, provider))


async def pause_target(
    uow: UnitOfWork,
    kind: str,
    provider: str,
    user: UserId,
    *,
    actor: str,
    reason: str | None,
    now: datetime,
) -> bool:
    """Lease a user's target no more. Returns whether that is new."""
    return _changed(
        await uow.execute(_PAUSE_TARGET, uow.tenant, provider, kind, user, now, actor, reason)
    )


async def resume_target(uow: UnitOfWork, kind: str, provider: str, user: UserId) -> bool:
    """Lease a user's target again when it is due. Returns whether it was paused."""
    return _changed(await uow.execute(_RESUME_TARGET, uow.tenant, provider, kind, user))


async def cancel_runs(
    uow: UnitOfWork, kind: str, user: UserId, *, rest_at: datetime, now: datetime
) -> int:
    """End the user's runs that have not ended, and let the target rest. Returns how many.

    One in flight goes on with its requests and keeps its lease meanwhile; nothing that it brings is written.
    """
    error = json.dumps(CANCELLED)
    tag = await uow.execute(_CANCEL, uow.tenant, kind, user, now, rest_at, error)
    return int(tag.rpartition(" ")[2])


async def find_source_pause(uow: UnitOfWork, provider: str) -> Pause | None:
    """Return since when, by whom and why a source is paused."""
    row = await uow.fetchrow(
        "SELECT paused_at, paused_by, pause_reason FROM steelyard.provider_budget WHERE tenant_id = $1 AND provider = $2",
        uow.tenant,
        provider,
    )
    return None if row is None else _pause_of(row)


async def count_paused(uow: UnitOfWork, provider: str) -> int:
    """Return how many users of the tenant are paused at a source."""
    return int(
        await uow.fetchval(
            "SELECT count(*) FROM steelyard.sync_target WHERE tenant_id = $1 AND provider = $2 AND is_paused",
            uow.tenant,
            provider,
        )
    )


async def list_due_tiers(
    uow: UnitOfWork, provider: str, *, count: int, now: datetime
) -> list[DueTier]:
    """Return what is due at a source by tier: how many, counted up to `count`, and since when the oldest."""
    rows = await uow.fetch(
        "SELECT * FROM steelyard.describe_due($1, $2, $3, $4, $5)",
        now,
        uow.tenant,
        provider,
        Priority.LOGIN,
        count,
    )
    return [DueTier(row["tier"], row["due"], row["oldest_at"]) for row in rows]


async def find_target(uow: UnitOfWork, kind: str, user: UserId) -> TargetState | None:
    """Return how a user's target stands; None where there is none."""
    row = await uow.fetchrow(_TARGET, uow.tenant, kind, user)
    if row is None:
        return None
    return TargetState(
        due_at=row["due_at"],
        priority=row["priority"],
        leased_by=row["leased_by"],
        lease_until=row["lease_until"],
        run=row["run_id"],
        again_run=row["again_run_id"],
        last_result=row["last_result"],
        last_success_at=row["last_success_at"],
        last_login_at=row["last_login_at"],
        pause=_pause_of(row) or (Pause(None, None, None) if row["is_paused"] else None),
    )


async def list_accounts(
    uow: UnitOfWork, user: UserId, provider: str, *, limit: int
) -> list[AccountState]:
    """Return a user's accounts at a source, closed ones last."""
    return [
        AccountState(
            account=AccountId(row["account_id"]),
            ending=row["ending"],
            account_type=row["account_type"],
            is_active=row["is_active"],
            is_primary=row["is_primary"],
            currency=Currency(row["currency"], row["digits"]),
            balance=row["posted"],
            as_of=row["as_of"],
            read_at=row["read_at"],
        )
        for row in await uow.fetch(_ACCOUNTS, uow.tenant, user, provider, limit)
    ]


async def list_last_runs(
    uow: UnitOfWork, kind: str, user: UserId, *, limit: int
) -> Sequence[RunLine]:
    """Return a user's newest runs, newest first."""
    return [
        RunLine(
            run=row["id"],
            state=State(row["state"]),
            priority=row["priority"],
            attempts=row["attempts"],
            created_at=row["created_at"],
            finished_at=row["finished_at"],
            error_code=row["code"],
            error=row["message"],
        )
        for row in await uow.fetch(_RUNS, uow.tenant, user, kind, limit)
    ]


def _changed(tag: str) -> bool:
    return not tag.endswith(" 0")


def _pause_of(row: asyncpg.Record) -> Pause | None:
    if row["paused_at"] is None:
        return None
    return Pause(row["paused_at"], row["paused_by"], row["pause_reason"])
