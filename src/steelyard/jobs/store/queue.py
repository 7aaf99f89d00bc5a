"""SQL of jobs: queued, begun, ended; of signs of life and of rescue."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from steelyard.core.ids import TenantId
from steelyard.jobs.model import Kind, RunRequest, State
from steelyard.jobs.port import Ticket
from steelyard.runtime.database import Database, UnitOfWork

CLOCKS_APART = timedelta(seconds=1)
"""How far the clocks of processes may differ."""

_REQUEST = "SELECT * FROM steelyard.request_run($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9, $10, $11, $12, $13)"
_CLAIM = """
    WITH claimed AS (
        UPDATE steelyard.job
           SET state = 'running', token = token + 1, attempt = attempt + 1, worker = $3, claimed_at = $4
         WHERE tenant_id = $1 AND run_id = $2 AND state IN ('pending', 'waiting') AND due_at <= $5
        RETURNING *)
    UPDATE steelyard.run r
       SET state = 'running', attempts = r.attempts + 1, progress = 0, started_at = coalesce(r.started_at, $4)
      FROM claimed c WHERE r.tenant_id = $1 AND r.id = c.run_id
    RETURNING c.kind, c.subject, c.token, c.attempt, c.attempts_max, r.arguments::text AS arguments, r.planned_for, r.schedule
"""
# A handler that is paused inside its unit of work must not keep the job's row locked: the server ends it.
_HOLD = """
    SELECT set_config('idle_in_transaction_session_timeout', '10000', true)
      FROM steelyard.job
     WHERE tenant_id = $1 AND run_id = $2 AND token = $3 AND state = 'running' AND NOT is_cancel_asked
       FOR NO KEY UPDATE
"""
_PROGRESS = """
    UPDATE steelyard.run r SET progress = $4 FROM steelyard.job j
     WHERE r.tenant_id = $1 AND r.id = $2 AND j.tenant_id = $1 AND j.run_id = $2 AND j.token = $3 AND j.state = 'running'
    RETURNING true
"""
_END = """
    WITH ended AS (
        DELETE FROM steelyard.job WHERE tenant_id = $1 AND run_id = $2 AND token = $3 AND state = 'running'
        RETURNING run_id)
    UPDATE steelyard.run r
       SET state = $4, finished_at = $5, progress = CASE $4 WHEN 'completed' THEN 100 ELSE r.progress END,
           result = coalesce($6::json, r.result), error = coalesce($7::json, r.error)
      FROM ended e WHERE r.tenant_id = $1 AND r.id = e.run_id
    RETURNING true
"""
_KEEP = """
    WITH kept AS (
        UPDATE steelyard.job
           SET state = CASE $4 WHEN 'failed' THEN 'dead' ELSE 'waiting' END, worker = NULL, due_at = $6, look_at = $6,
               attempt = attempt - $7
         WHERE tenant_id = $1 AND run_id = $2 AND token = $3 AND state = 'running' AND NOT is_cancel_asked
        RETURNING run_id)
    UPDATE steelyard.run r
       SET state = $4, finished_at = CASE $4 WHEN 'failed' THEN $5::timestamptz END,
           result = coalesce($8::json, r.result), error = coalesce($9::json, r.error),
           error_category = coalesce($10, r.error_category)
      FROM kept k WHERE r.tenant_id = $1 AND r.id = k.run_id
    RETURNING true
"""
_CANCEL = """
    WITH asked AS (
        UPDATE steelyard.job SET is_cancel_asked = true
         WHERE tenant_id = $1 AND run_id = $2 AND state = 'running'
        RETURNING run_id),
    dropped AS (
        DELETE FROM steelyard.job WHERE tenant_id = $1 AND run_id = $2 AND state IN ('pending', 'waiting')
        RETURNING run_id),
    told AS (
        UPDATE steelyard.run r SET state = 'cancelled', finished_at = $3, error = $4::json
          FROM dropped d WHERE r.tenant_id = $1 AND r.id = d.run_id)
    SELECT CASE WHEN EXISTS (SELECT FROM dropped) THEN 'cancelled' WHEN EXISTS (SELECT FROM asked) THEN 'asked'
                WHEN EXISTS (SELECT FROM steelyard.run WHERE tenant_id = $1 AND id = $2) THEN 'ended' END
"""
_REQUEUE = """
    WITH raised AS (
        UPDATE steelyard.job
           SET state = 'waiting', attempt = 0, losses = 0, due_at = $3, look_at = $3, is_cancel_asked = false
         WHERE tenant_id = $1 AND run_id = $2 AND state = 'dead'
        RETURNING run_id)
    UPDATE steelyard.run r SET state = 'retrying', finished_at = NULL, result = NULL, progress = 0
      FROM raised d WHERE r.tenant_id = $1 AND r.id = d.run_id
    RETURNING true
"""
_END_SLEEPERS = """
    SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE pid = ANY (ARRAY (SELECT * FROM steelyard.list_sleepers($1))) AND usename = current_user
       AND xact_start < now() - $2::interval
"""
_DEAD = """
    SELECT run_id FROM steelyard.job
     WHERE tenant_id = $1 AND state = 'dead' AND ($2::text IS NULL OR kind = $2) ORDER BY kind, run_id LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job this worker has. `token` is the fencing number: a later claim has a larger one."""

    tenant: TenantId
    run: int
    token: int
    kind: str
    subject: str
    arguments: Mapping[str, Any]
    attempt: int
    attempts_max: int
    planned_for: datetime | None
    schedule: str | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is written of a job that goes on, or is a dead letter: from when it is due again, and why it failed."""

    state: State
    due_at: datetime
    uncounted: int = 0
    """1: the attempt does not count."""
    result: Mapping[str, object] | None = None
    error: Mapping[str, object] | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True)
class JobCounts:
    """Jobs of a kind, of the whole installation."""

    waiting: int = 0
    active: int = 0
    delayed: int = 0
    dead: int = 0


async def request_run(
    uow: UnitOfWork,
    kind: Kind,
    wanted: RunRequest,
    *,
    arguments: str,
    token_hash: bytes | None,
    now: datetime,
) -> tuple[int, bool]:
    """Make a run and its job, or share the run of an equal request. Returns the run and whether it is new."""
    row = await uow.fetchrow(
        _REQUEST,
        now,
        uow.tenant,
        kind.name,
        wanted.subject,
        arguments,
        sha256(arguments.encode()).digest(),
        kind.priority if wanted.priority is None else wanted.priority,
        kind.attempts_max,
        now if wanted.not_before is None else wanted.not_before,
        wanted.planned_for,
        wanted.schedule,
        wanted.requested_by,
        token_hash,
    )
    assert row is not None, "a request always has its run"
    return row["r_run"], row["r_is_new"]


async def claim_job(uow: UnitOfWork, run: int, *, worker: str, now: datetime) -> Claim | None:
    """Begin a job: its worker is this one from now on. None where it is not due, has begun or has ended."""
    row = await uow.fetchrow(_CLAIM, uow.tenant, run, worker, now, now + CLOCKS_APART)
    if row is None:
        return None
    return Claim(
        tenant=uow.tenant,
        run=run,
        token=row["token"],
        kind=row["kind"],
        subject=row["subject"],
        arguments=json.loads(row["arguments"] or "{}"),
        attempt=row["attempt"],
        attempts_max=row["attempts_max"],
        planned_for=row["planned_for"],
        schedule=row["schedule"],
    )


async def hold_job(uow: UnitOfWork, run: int, token: int) -> bool:
    """Lock a job until `uow` ends, if the token is still the newest and nobody asked for its end."""
    return await uow.fetchrow(_HOLD, uow.tenant, run, token) is not None


async def set_progress(uow: UnitOfWork, run: int, token: int, percent: int) -> bool:
    """Write how far a run is, if the token is still the newest."""
    return bool(await uow.fetchval(_PROGRESS, uow.tenant, run, token, percent))


async def end_job(
    uow: UnitOfWork,
    claim: Claim,
    state: State,
    *,
    result: Mapping[str, object] | None = None,
    error: Mapping[str, object] | None = None,
    now: datetime,
) -> bool:
    """End a job and its run, if this claim is still the newest. Nothing is left of the job."""
    return bool(
        await uow.fetchval(
            _END,
            uow.tenant,
            claim.run,
            claim.token,
            state,
            now,
            _json(result),
            _json(error),
        )
    )


async def keep_job(uow: UnitOfWork, claim: Claim, kept: Kept, *, now: datetime) -> bool:
    """Let a job wait for its next attempt, or make it a dead letter, if this claim is still the newest.

    Not one whose end was asked for.
    """
    return bool(
        await uow.fetchval(
            _KEEP,
            uow.tenant,
            claim.run,
            claim.token,
            kept.state,
            now,
            kept.due_at,
            kept.uncounted,
            _json(kept.result),
            _json(kept.error),
            kept.category,
        )
    )


async def cancel_job(
    uow: UnitOfWork, run: int, error: Mapping[str, object], *, now: datetime
) -> str | None:
    """End a job that has not begun, or ask for the end of one that has: `cancelled`, `asked`, `ended`; None: no such run."""
    found: str | None = await uow.fetchval(_CANCEL, uow.tenant, run, now, _json(error))
    return found


async def requeue_job(uow: UnitOfWork, run: int, *, now: datetime) -> bool:
    """Let a dead letter be tried again from the first attempt. Returns whether it was one."""
    return bool(await uow.fetchval(_REQUEUE, uow.tenant, run, now))


async def find_state(uow: UnitOfWork, run: int) -> State | None:
    """Return where a run stands."""
    found = await uow.fetchval(
        "SELECT state FROM steelyard.run WHERE tenant_id = $1 AND id = $2", uow.tenant, run
    )
    return None if found is None else State(found)


async def list_dead(uow: UnitOfWork, kind: str | None, *, limit: int) -> list[int]:
    """Return the runs of dead letters."""
    return [row["run_id"] for row in await uow.fetch(_DEAD, uow.tenant, kind, limit)]


async def hand_over(
    database: Database, kinds: Sequence[str], *, limit: int, again: timedelta, now: datetime
) -> list[Ticket]:
    """Give out jobs that are due, of any tenant, the most urgent first; again those nobody began within `again`."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.hand_over_jobs($1, $2, $3, $4)", now, list(kinds), limit, again
    )
    return [
        Ticket(TenantId(row["tenant_id"]), row["run_id"], row["kind"], row["priority"])
        for row in rows
    ]


async def beat(
    database: Database,
    worker: str,
    claims: Sequence[Claim],
    working_on: Sequence[tuple[TenantId, int]],
    *,
    now: datetime,
) -> list[tuple[Claim, bool]]:
    """Give a sign of life, and say which jobs it is for. Returns the claims to leave, and whether they are still held."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.beat_worker($1, $2, $3, $4, $5, $6, $7)",
        now,
        worker,
        [claim.tenant for claim in claims],
        [claim.run for claim in claims],
        [claim.token for claim in claims],
        [tenant for tenant, _ in working_on],
        [run for _, run in working_on],
    )
    return [(claims[row["r_position"] - 1], row["r_is_held"]) for row in rows]


async def leave(database: Database, worker: str) -> None:
    """Forget a worker that has ended."""
    await database.fetch("DELETE FROM steelyard.job_worker WHERE name = $1", worker)


async def forget_workers(database: Database, *, silent_since: datetime) -> None:
    """Forget workers that ended without saying so."""
    await database.fetch("DELETE FROM steelyard.job_worker WHERE heartbeat_at < $1", silent_since)


async def rescue(
    database: Database, *, stalled: timedelta, losses_max: int, limit: int, now: datetime
) -> list[tuple[TenantId, int, str, str, State]]:
    """Take jobs from workers that gave no sign of life: tenant, run, kind, worker, state of the run now."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.rescue_jobs($1, $2, $3, $4)", now, now - stalled, losses_max, limit
    )
    return [
        (TenantId(r["tenant_id"]), r["run_id"], r["kind"], r["worker"], State(r["state"]))
        for r in rows
    ]


async def end_sleepers(database: Database, *, stalled: timedelta, now: datetime) -> int:
    """End connections whose unit of work holds a job of a worker that gave no sign of life. Returns how many."""
    return len(await database.fetch(_END_SLEEPERS, now - stalled, stalled / 2))


async def count_jobs(database: Database, *, now: datetime) -> dict[str, JobCounts]:
    """Return how many jobs there are, by kind, of the whole installation."""
    rows = await database.fetch("SELECT * FROM steelyard.count_jobs($1)", now)
    return {r["kind"]: JobCounts(r["waiting"], r["active"], r["delayed"], r["dead"]) for r in rows}


def _json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value, allow_nan=False)
