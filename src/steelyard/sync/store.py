"""All SQL of targets, runs and budgets."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta

import asyncpg

from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync.model import (
    Budget,
    Circuit,
    Finish,
    Grant,
    Lane,
    Lease,
    Priority,
    Room,
    RunState,
    State,
)
from steelyard.sync.rules import ATTEMPTS_MAX

_BUDGET = """
    SELECT rate_per_s, burst, tokens, refilled_at, in_flight_max, daily_on, login_share, daily_limit, daily_used,
           blocked_until, circuit, circuit_until, circuit_failures, circuit_openings
      FROM steelyard.provider_budget WHERE tenant_id = $1 AND provider = $2
"""
_SAVE_BUDGET = """
    UPDATE steelyard.provider_budget
       SET tokens = $3, refilled_at = $4, daily_on = $5, daily_used = $6, blocked_until = $7, circuit = $8,
           circuit_until = $9, circuit_failures = $10, circuit_openings = $11
     WHERE tenant_id = $1 AND provider = $2
"""
_SET_LIMITS = """
    INSERT INTO steelyard.provider_budget AS b (tenant_id, provider, rate_per_s, burst, tokens, refilled_at,
        in_flight_max, daily_on, login_share, daily_limit)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    ON CONFLICT (tenant_id, provider) DO UPDATE
       SET rate_per_s = excluded.rate_per_s, burst = excluded.burst, tokens = least(b.tokens, excluded.burst),
           in_flight_max = excluded.in_flight_max, login_share = excluded.login_share, daily_limit = excluded.daily_limit
     WHERE (b.rate_per_s, b.burst, b.in_flight_max, b.login_share, b.daily_limit) IS DISTINCT FROM
           (excluded.rate_per_s, excluded.burst, excluded.in_flight_max, excluded.login_share, excluded.daily_limit)
"""
_ADD_TARGETS = """
    INSERT INTO steelyard.sync_target AS t (tenant_id, kind, subject, provider, cost, due_at)
    SELECT $1, $2, u.subject, $3, u.cost, u.due_at FROM unnest($4::text[], $5::int[], $6::timestamptz[])
        AS u (subject, cost, due_at) ORDER BY u.subject
    ON CONFLICT (tenant_id, kind, subject) DO UPDATE SET cost = excluded.cost WHERE t.cost <> excluded.cost
"""
_LOWER = """
    WITH abandoned AS MATERIALIZED (
        SELECT t.kind, t.subject, r.id FROM steelyard.run r
          JOIN steelyard.sync_target t ON t.tenant_id = $1 AND t.kind = r.kind AND t.subject = r.subject
         WHERE r.tenant_id = $1 AND r.id = ANY ($2) ORDER BY t.kind, t.subject FOR NO KEY UPDATE OF t)
    UPDATE steelyard.sync_target t
       SET priority = CASE WHEN t.run_id = a.id THEN least(t.priority, $3) ELSE t.priority END,
           again_priority = CASE WHEN t.again_run_id = a.id THEN least(t.again_priority, $3) ELSE t.again_priority END
      FROM abandoned a
     WHERE t.tenant_id = $1 AND t.kind = a.kind AND t.subject = a.subject
       AND (t.run_id = a.id AND t.priority > $3 OR t.again_run_id = a.id AND t.again_priority > $3)
"""
_REMOVE = """
    WITH removed AS (
        DELETE FROM steelyard.sync_target t USING unnest($2::text[], $3::text[], $4::bigint[]) AS u (kind, subject, token)
         WHERE t.tenant_id = $1 AND t.kind = u.kind AND t.subject = u.subject AND t.lease_token = u.token AND t.lease_until > $5
        RETURNING t.run_id, t.again_run_id)
    UPDATE steelyard.run r SET state = 'cancelled', finished_at = $5, error = $6::json FROM removed d
     WHERE r.tenant_id = $1 AND r.id IN (d.run_id, d.again_run_id)
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


async def find_budget(uow: UnitOfWork, provider: str) -> Budget | None:
    """Return the tenant's budget at a source, as it is at this moment."""
    row = await uow.fetchrow(_BUDGET, uow.tenant, provider)
    return None if row is None else _budget_of(row)


async def lock_budget(uow: UnitOfWork, provider: str) -> Budget | None:
    """Return the tenant's budget at a source, its row locked until `uow` ends; None where it has none."""
    row = await uow.fetchrow(_BUDGET + "FOR NO KEY UPDATE", uow.tenant, provider)
    return None if row is None else _budget_of(row)


async def save_budget(uow: UnitOfWork, provider: str, budget: Budget) -> None:
    """Write what changed of a budget that was locked; its limits stay."""
    await uow.execute(
        _SAVE_BUDGET,
        uow.tenant,
        provider,
        budget.tokens,
        budget.refilled_at,
        budget.daily_on,
        budget.daily_used,
        budget.blocked_until,
        budget.circuit,
        budget.circuit_until,
        budget.circuit_failures,
        budget.circuit_openings,
    )


async def set_limits(uow: UnitOfWork, provider: str, budget: Budget) -> None:
    """Give the tenant a budget at a source, or its budget other limits; tokens are never added by it."""
    await uow.execute(
        _SET_LIMITS,
        uow.tenant,
        provider,
        budget.rate_per_s,
        budget.burst,
        budget.tokens,
        budget.refilled_at,
        budget.in_flight_max,
        budget.daily_on,
        budget.login_share,
        budget.daily_limit,
    )


def _budget_of(row: asyncpg.Record) -> Budget:
    return Budget(**{**dict(row), "circuit": Circuit(row["circuit"])})


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


async def count_targets(uow: UnitOfWork, provider: str) -> int:
    """Return how many requests one sync of every target of the tenant at a source takes."""
    return int(
        await uow.fetchval(
            "SELECT coalesce(sum(cost), 0)::bigint FROM steelyard.sync_target "
            "WHERE tenant_id = $1 AND provider = $2 AND NOT is_paused",
            uow.tenant,
            provider,
        )
    )


async def lease_targets(
    uow: UnitOfWork,
    lane: Lane,
    grant: Grant,
    room: Room,
    *,
    worker: str,
    lease_s: float,
    now: datetime,
) -> list[Lease]:
    """Lease due targets, as many as granted; each lease writes its run."""
    rows = await uow.fetch(
        "SELECT * FROM steelyard.lease_targets($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        now,
        uow.tenant,
        lane.provider,
        worker,
        timedelta(seconds=lease_s),
        grant.login,
        grant.background,
        Priority.LOGIN,
        ATTEMPTS_MAX,
        room.now,
        room.most,
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
        )
        for row in rows
    ]


async def finish_targets(
    uow: UnitOfWork, finishes: Sequence[Finish], *, now: datetime
) -> list[Finish]:
    """End leases and tell their runs. Returns those whose lease still held; of the others nothing is written."""
    accepted = await uow.fetchval(
        "SELECT steelyard.finish_targets($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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


async def drop_targets(
    uow: UnitOfWork, kind: str, users: Sequence[UserId], *, reason: dict[str, str], now: datetime
) -> int:
    """Forget targets of users who are to be synced no more, leased or not; their runs end cancelled. Returns how many."""
    return int(
        await uow.fetchval(
            "SELECT steelyard.drop_targets($1, $2, $3, $4, $5)",
            now,
            uow.tenant,
            kind,
            list(users),
            json.dumps(reason),
        )
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
    wanted: Sequence[tuple[UserId, int, bytes | None]],
    *,
    priority: int,
    now: datetime,
) -> dict[UserId, tuple[int | None, bool, bool]]:
    """Make targets (user, requests a sync takes, hash of a public token) due now, at least at `priority`.

    Returns:
        Per user: the run that will serve it, whether nobody had asked for it, whether the target is paused.
    """
    users, costs, hashes = (
        ([list(c) for c in zip(*wanted, strict=True)]) if wanted else ([], [], [])
    )
    rows = await uow.fetch(
        "SELECT * FROM steelyard.raise_targets($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        now,
        uow.tenant,
        kind,
        provider,
        users,
        costs,
        priority,
        Priority.LOGIN,
        hashes,
    )
    return {
        UserId(row["r_subject"]): (row["r_run_id"], bool(row["r_is_new"]), row["r_is_paused"])
        for row in rows
    }


async def lower_waited(uow: UnitOfWork, runs: Sequence[int]) -> None:
    """Let targets whose login nobody waits for any more stand behind the logins that somebody does."""
    await uow.execute(_LOWER, uow.tenant, list(runs), Priority.WAITED)


async def load_run_states(uow: UnitOfWork, runs: Sequence[int]) -> list[RunState]:
    """Return where runs stand."""
    rows = await uow.fetch(
        "SELECT id, state, error ->> 'code' AS code FROM steelyard.run WHERE tenant_id = $1 AND id = ANY ($2)",
        uow.tenant,
        list(runs),
    )
    return [RunState(row["id"], State(row["state"]), row["code"]) for row in rows]


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
