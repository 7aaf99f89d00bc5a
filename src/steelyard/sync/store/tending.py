"""All SQL of what is put right now and then: targets that came back to be synced, and those planned by other settings."""

from collections.abc import Sequence
from datetime import datetime

from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database, UnitOfWork

_RETURNED = """
    SELECT r.subject, count(m.account_id)::int AS accounts FROM steelyard.sync_removed r
      JOIN steelyard.app_user w ON w.tenant_id = $1 AND w.id = r.subject
       AND w.status = 'active' AND w.context = 'MOBILE_BANKING'
      JOIN steelyard.mirrored_account m ON m.tenant_id = $1 AND m.user_id = r.subject AND m.provider = $2 AND m.is_active
     WHERE r.tenant_id = $1 AND r.provider = $2 AND r.kind = $3 AND r.subject > $4
     GROUP BY r.subject ORDER BY r.subject LIMIT $5
"""
_TOO_LATE = """
    SELECT t.subject FROM steelyard.sync_target t
     WHERE t.tenant_id = $1 AND t.provider = $2 AND t.kind = $3 AND NOT t.is_paused AND t.priority = 0 AND t.due_at > $4
       AND t.run_id IS NULL AND t.lease_until IS NULL
     ORDER BY t.due_at DESC LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED
"""
_MOVE = """
    UPDATE steelyard.sync_target t SET due_at = u.due_at FROM unnest($3::text[], $4::timestamptz[]) AS u (subject, due_at)
     WHERE t.tenant_id = $1 AND t.kind = $2 AND t.subject = u.subject
"""


async def list_sources(database: Database, providers: Sequence[str]) -> list[tuple[TenantId, str]]:
    """Return every tenant and source of the installation that has a budget, of these providers."""
    rows = await database.fetch("SELECT * FROM steelyard.list_sources($1)", list(providers))
    return [(TenantId(row["tenant_id"]), row["provider"]) for row in rows]


async def list_returned(
    uow: UnitOfWork, kind: str, provider: str, *, after: UserId | None, limit: int
) -> list[tuple[UserId, int]]:
    """Return users whose target was removed and who may be synced again: id and number of accounts, by id."""
    rows = await uow.fetch(_RETURNED, uow.tenant, provider, kind, after or "", limit)
    return [(UserId(row["subject"]), row["accounts"]) for row in rows]


async def forget_removed(
    uow: UnitOfWork, kind: str, provider: str, users: Sequence[UserId]
) -> None:
    """Forget that users were removed: they have a target again."""
    await uow.execute(
        "DELETE FROM steelyard.sync_removed "
        "WHERE tenant_id = $1 AND provider = $2 AND kind = $3 AND subject = ANY ($4)",
        uow.tenant,
        provider,
        kind,
        list(users),
    )


async def lock_late_targets(
    uow: UnitOfWork, kind: str, provider: str, *, after: datetime, limit: int
) -> list[UserId]:
    """Return users whose resting target is due later than `after`, their rows locked; the latest first."""
    rows = await uow.fetch(_TOO_LATE, uow.tenant, provider, kind, after, limit)
    return [UserId(row["subject"]) for row in rows]


async def move_targets(
    uow: UnitOfWork, kind: str, moments: Sequence[tuple[UserId, datetime]]
) -> None:
    """Let targets be due at other moments; their rows are locked by the caller."""
    users, due = ([list(c) for c in zip(*moments, strict=True)]) if moments else ([], [])
    await uow.execute(_MOVE, uow.tenant, kind, users, due)
