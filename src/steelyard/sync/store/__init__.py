"""All SQL of targets and runs; that of budgets and of what operators do is beside it."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync.model import (
    Finish,
    Grant,
    Lane,
    Lease,
    Priority,
    RunState,
    State,
)
from steelyard.sync.rules import ATTEMPTS_MAX

_ADD_TARGETS = """
    INSERT INTO steelyard.sync_target AS t (tenant_id, kind, subject, provider, cost, due_at)
    SELECT $1, $2, u.subject, $3, u.cost, u.due_at FROM unnest($4::text[], $5::int[], $6::timestamptz[])
        AS u (subject, cost, due_at) ORDER BY u.subject
    ON CONFLICT (tenant_id, kind, subject) DO UPDATE SET cost = excluded.cost WHERE t.cost <> excluded.cost
"""
_LOWER = """
    WITH unwaited AS MATERIALIZED (
        SELECT t.kind, t.subject FROM steelyard.sync_target t WHERE t.tenant_id = $1 AND t.waited_until <= $2
         ORDER BY t.kind, t.subject LIMIT 10000 FOR NO KEY UPDATE SKIP LOCKED)
    UPDATE steelyard.sync_target t
       SET priority = CASE WHEN t.priority >= $3 THEN greatest(t.asked_priority, $4) ELSE t.priority END,
           again_priority = CASE WHEN t.again_priority >= $3 THEN greatest(t.again_asked_priority, $4) ELSE t.again_priority END,
           waited_until = NULL
      FROM unwaited u WHERE t.tenant_id = $1 AND t.kind = u.kind AND t.subject = u.subject
"""
_REMOVE = """
    WITH removed AS (
        DELETE FROM steelyard.sync_target t USING unnest($2::text[], $3::text[], $4::bigint[]) AS u (kind, subject, token)
         WHERE t.tenant_id = $1 AND t.kind = u.kind AND t.subject = u.subject AND t.lease_token = u.token AND t.lease_until > $5
        RETURNING t.kind, t.subject, t.provider, t.run_id, t.again_run_id),
    noted AS (
        INSERT INTO steelyard.sync_removed (tenant_id, provider, kind, subject, removed_at)
        SELECT $1, d.provider, d.kind, d.subject, $5 FROM removed d ON CONFLICT DO NOTHING)
    UPDATE steelyard.run r SET state = 'cancelled', finished_at = $5, error = $6::json FROM removed d
     WHERE r.tenant_id = $1 AND r.id IN (d.run_id, d.again_run_id)
"""
_GIVE_BACK = """
    WITH held AS MATERIALIZED (
        SELECT t.kind, t.subject, t.run_id FROM steelyard.sync_target t
          JOIN unnest($2::text[], $3::text[], $4::bigint[]) AS u (kind, subject, token)
            ON t.kind = u.kind AND t.subject = u.subject AND u.token IN (t.lease_token, t.cancelled_token)
         WHERE t.tenant_id = $1 AND t.lease_until > $5
         ORDER BY t.kind, t.subject FOR NO KEY UPDATE OF t),
    freed AS (
        UPDATE steelyard.sync_target t SET lease_until = NULL, leased_by = NULL, due_at = $5, lease_token = t.lease_token + 1,
               cancelled_token = NULL, attempts = greatest(t.attempts - 1, 0)
          FROM held h WHERE t.tenant_id = $1 AND t.kind = h.kind AND t.subject = h.subject)
    UPDATE steelyard.run r SET state = 'retrying' FROM held h
     WHERE r.tenant_id = $1 AND r.id = h.run_id AND r.state = 'running'
"""
_RECOVER = """
    WITH lost AS MATERIALIZED (
        SELECT t.kind, t.subject, t.run_id FROM steelyard.sync_target t
         WHERE t.tenant_id = $1 AND t.lease_until <= $4
           AND (t.kind, t.subject) IN (SELECT * FROM unnest($2::text[], $3::text[]))
         ORDER BY t.kind, t.subject FOR NO KEY UPDATE SKIP LOCKED),
    freed AS (
        UPDATE steelyard.sync_target t SET lease_until = NULL, leased_by = NULL, due_at = $4, last_result = 'worker_lost'
          FROM lost l WHERE t.tenant_id = $1 AND t.kind = l.kind AND t.subject = l.subject)
    UPDATE steelyard.run r SET state = 'retrying', error = $5::json FROM lost l
     WHERE r.tenant_id = $1 AND r.id = l.run_id AND r.state = 'running'
"""


async def limit_lock_waits(uow: UnitOfWork, wait_s: float) -> None:
    """Let nothing in `uow` wait longer than this for a lock: `asyncpg.LockNotAvailableError` then ends it."""
    await uow.fetchval(
        "SELECT set_config('lock_timeout', $1, true)", f"{max(1, round(wait_s * 1000))}ms"
    )


async def count_in_flight(uow: UnitOfWork, provider: str, *, now: datetime) -> int:
    """Return how many leases of the tenant at a source run: each has one request on its way at a time."""
    return int(
        await uow.fetchval(
            "SELECT count(*) FROM steelyard.sync_target "
            "WHERE tenant_id = $1 AND provider = $2 AND lease_until > $3",
            uow.tenant,
            provider,
            now,
        )
    )


async def count_targets(uow: UnitOfWork, provider: str, *, most: int) -> int:
    """Return how many requests one sync of the tenant's targets at a source takes, of the first `most` targets.

    Each takes at least one, so an answer below `most` is that of all of them.
    """
    return int(
        await uow.fetchval(
            "SELECT coalesce(sum(t.cost), 0)::bigint FROM (SELECT cost FROM steelyard.sync_target "
            "WHERE tenant_id = $1 AND provider = $2 AND NOT is_paused LIMIT $3) t",
            uow.tenant,
            provider,
            most,
        )
    )


async def lease_targets(
    uow: UnitOfWork,
    lane: Lane,
    grant: Grant,
    *,
    worker: str,
    lease_s: float,
    now: datetime,
) -> list[Lease]:
    """Lease due targets, as many as granted; each lease writes its run."""
    rows = await uow.fetch(
        "SELECT * FROM steelyard.lease_targets($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        now,
        uow.tenant,
        lane.provider,
        worker,
        timedelta(seconds=lease_s),
        grant.login,
        grant.background,
        Priority.LOGIN,
        ATTEMPTS_MAX,
    )
    return [
        Lease(
            tenant=uow.tenant,
            provider=lane.provider,
            kind=row["kind"],
            subject=UserId(row["subject"]),
            token=row["lease_token"],
            until=row["lease_until"],
            priority=row["priority"],
            cost=row["cost"],
            attempts=row["attempts"],
            run=row["run_id"],
            last_login_at=row["last_login_at"],
            read=frozenset(map(AccountId, row["read_accounts"])),
        )
        for row in rows
    ]


async def finish_targets(
    uow: UnitOfWork, finishes: Sequence[Finish], *, now: datetime
) -> list[Finish]:
    """End leases and tell their runs. Returns those whose lease still held; of the others nothing is written."""
    accepted = await uow.fetchval(
        "SELECT steelyard.finish_targets($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        now,
        uow.tenant,
        [one.lease.kind for one in finishes],
        [one.lease.subject for one in finishes],
        [one.lease.token for one in finishes],
        [one.state for one in finishes],
        [one.due_at for one in finishes],
        [one.cost for one in finishes],
        [one.word for one in finishes],
        [None if one.result is None else json.dumps(one.result) for one in finishes],
        [None if one.error is None else json.dumps(one.error) for one in finishes],
        [one.is_progress for one in finishes],
        ["{" + ",".join(map(str, one.read)) + "}" for one in finishes],
        [one.rest_at or one.due_at for one in finishes],
    )
    return [finishes[position - 1] for position in accepted]


async def remove_targets(
    uow: UnitOfWork, leases: Sequence[Lease], *, reason: dict[str, str], now: datetime
) -> None:
    """Forget targets that are no longer to be synced, if their leases still hold; their runs end cancelled."""
    await uow.execute(
        _REMOVE,
        uow.tenant,
        [lease.kind for lease in leases],
        [lease.subject for lease in leases],
        [lease.token for lease in leases],
        now,
        json.dumps(reason),
    )


async def add_targets(
    uow: UnitOfWork, kind: str, provider: str, targets: Sequence[tuple[UserId, int, datetime]]
) -> None:
    """Make targets (user, requests a sync takes, first due); one there is keeps its due time."""
    columns = [list(column) for column in zip(*targets, strict=True)] if targets else [[], [], []]
    await uow.execute(_ADD_TARGETS, uow.tenant, kind, provider, *columns)


async def raise_targets(
    uow: UnitOfWork,
    kind: str,
    provider: str,
    wanted: Sequence[tuple[UserId, int, bytes | None, datetime | None]],
    *,
    priority: int,
    now: datetime,
    passes_locked: bool = False,
) -> dict[UserId, tuple[int | None, bool, bool]]:
    """Make targets due now, at least at `priority`: user, requests a sync takes, hash of a public token, waited until.

    Returns:
        Per user: the run that will serve it, whether nobody had asked for it, whether the target is paused. With
        `passes_locked`, users whose target somebody else has locked are not in it.
    """
    users, costs, hashes, untils = (
        ([list(c) for c in zip(*wanted, strict=True)]) if wanted else ([], [], [], [])
    )
    rows = await uow.fetch(
        "SELECT * FROM steelyard.raise_targets($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        now,
        uow.tenant,
        kind,
        provider,
        users,
        costs,
        priority,
        Priority.LOGIN,
        hashes,
        untils,
        passes_locked,
    )
    return {
        UserId(row["r_subject"]): (row["r_run_id"], bool(row["r_is_new"]), row["r_is_paused"])
        for row in rows
    }


async def lower_waited(uow: UnitOfWork, *, now: datetime) -> int:
    """Let targets that nobody waits for any more make way, to what else was asked for them. Returns how many.

    Those somebody else has locked at this moment stay as they are, until the next call.
    """
    tag = await uow.execute(_LOWER, uow.tenant, now, Priority.LOGIN, Priority.WAITED)
    return int(tag.rpartition(" ")[2])


async def load_run_states(uow: UnitOfWork, runs: Sequence[int]) -> list[RunState]:
    """Return where runs stand."""
    rows = await uow.fetch(
        "SELECT id, state, error ->> 'code' AS code, read_accounts FROM steelyard.run WHERE tenant_id = $1 AND id = ANY ($2)",
        uow.tenant,
        list(runs),
    )
    return [
        RunState(
            row["id"],
            State(row["state"]),
            row["code"],
            frozenset(map(AccountId, row["read_accounts"])),
        )
        for row in rows
    ]


async def list_lanes(
    database: Database, providers: Sequence[str] | None, *, count: int, now: datetime
) -> list[Lane]:
    """Return tenants and sources with something due, of the whole installation.

    With `count`, those without too, and how much is due at each, counted up to it.
    """
    rows = await database.fetch(
        "SELECT * FROM steelyard.list_due_lanes($1, $2, $3, $4)",
        now,
        None if providers is None else list(providers),
        Priority.LOGIN,
        count,
    )
    return [
        Lane(
            TenantId(row["tenant_id"]),
            row["provider"],
            row["priority_due"],
            row["background_due"],
            row["in_flight"],
        )
        for row in rows
    ]


async def list_lost_leases(
    database: Database, *, limit: int, now: datetime
) -> list[tuple[TenantId, str, UserId]]:
    """Return targets of any tenant whose lease ran out: tenant, kind, subject."""
    rows = await database.fetch("SELECT * FROM steelyard.list_lost_leases($1, $2)", now, limit)
    return [(TenantId(r["tenant_id"]), r["kind"], UserId(r["subject"])) for r in rows]


async def free_lost_leases(
    uow: UnitOfWork, targets: Sequence[tuple[str, UserId]], *, now: datetime
) -> int:
    """Make targets whose lease ran out due now and their runs wait for the next attempt. Returns how many."""
    error = {"code": "worker_lost", "message": "no worker finished it before its lease ended"}
    tag = await uow.execute(
        _RECOVER,
        uow.tenant,
        [kind for kind, _ in targets],
        [subject for _, subject in targets],
        now,
        json.dumps(error),
    )
    return int(tag.rpartition(" ")[2])


async def give_back(uow: UnitOfWork, leases: Sequence[Lease], *, now: datetime) -> int:
    """End leases that still hold, without an outcome: the attempt does not count. Returns how many."""
    tag = await uow.execute(
        _GIVE_BACK,
        uow.tenant,
        [lease.kind for lease in leases],
        [lease.subject for lease in leases],
        [lease.token for lease in leases],
        now,
    )
    return int(tag.rpartition(" ")[2])


async def list_unwaited(database: Database, *, now: datetime) -> list[TenantId]:
    """Return the tenants with targets that a login waited for and waits no more."""
    rows = await database.fetch("SELECT tenant_id FROM steelyard.list_unwaited($1)", now)
    return [TenantId(row["tenant_id"]) for row in rows]
