"""SQL of runs as users and operators see them: one by its token, pages, figures, and what is old.

A page without a subject is read as the newest rows of each kind and state, merged: so it costs the same however long
the history is and whatever it is filtered by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from steelyard.jobs.model import State
from steelyard.jobs.seen_run import KindFigures, PublicRun, RunFilter, RunPlace, SeenRun
from steelyard.runtime.database import Database, UnitOfWork

_COLUMNS: Final = """
    r.id, r.kind, r.subject, r.priority, r.state, r.attempts, r.progress, r.result::text AS result, r.error::text AS error,
    r.error_category, r.arguments::text AS arguments, r.requested_by, r.schedule, r.planned_for, r.created_at, r.started_at,
    r.finished_at
"""
_FIND_PUBLIC = "SELECT * FROM steelyard.read_public_run($1, $2)"
_FIND = f"SELECT {_COLUMNS} FROM steelyard.run r WHERE r.tenant_id = $1 AND r.id = $2"
_KINDS = """
    WITH RECURSIVE known AS (
        (SELECT r.kind FROM steelyard.run r WHERE r.tenant_id = $1 ORDER BY r.kind LIMIT 1)
        UNION ALL
        SELECT (SELECT r.kind FROM steelyard.run r WHERE r.tenant_id = $1 AND r.kind > k.kind ORDER BY r.kind LIMIT 1)
          FROM known k WHERE k.kind IS NOT NULL)
    SELECT kind FROM known WHERE kind IS NOT NULL
"""
# `OFFSET 0`: the rows themselves are read only for what the page shows.
_WHOLE = f"""
    SELECT w.* FROM page p CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM steelyard.run r WHERE r.tenant_id = $1 AND r.id = p.id OFFSET 0) w
     ORDER BY w.created_at DESC, w.id DESC
"""
_PAGE = f"""
    WITH page AS MATERIALIZED (
        SELECT n.id FROM unnest($6::text[]) k (kind) CROSS JOIN unnest($7::text[]) s (state) CROSS JOIN LATERAL (
            SELECT r.created_at, r.id FROM steelyard.run r
             WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = s.state
               AND (r.created_at, r.id) < ($2, $3) AND r.created_at >= $4
             ORDER BY r.created_at DESC, r.id DESC LIMIT $5) n
         ORDER BY n.created_at DESC, n.id DESC LIMIT $5)
    {_WHOLE}
"""
_PAGE_OF_ERROR = f"""
    WITH page AS MATERIALIZED (
        SELECT n.id FROM unnest($6::text[]) k (kind) CROSS JOIN LATERAL (
            SELECT r.created_at, r.id FROM steelyard.run r
             WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.error ->> 'code' = $8 AND r.error IS NOT NULL
               AND r.state = ANY ($7) AND (r.created_at, r.id) < ($2, $3) AND r.created_at >= $4
             ORDER BY r.created_at DESC, r.id DESC LIMIT $5) n
         ORDER BY n.created_at DESC, n.id DESC LIMIT $5)
    {_WHOLE}
"""
_PAGE_OF_SUBJECT = f"""
    WITH page AS MATERIALIZED (
        SELECT r.id FROM steelyard.run r
         WHERE r.tenant_id = $1 AND r.subject = $9 AND r.kind = ANY ($6) AND r.state = ANY ($7)
           AND ($8::text IS NULL OR r.error ->> 'code' = $8) AND (r.created_at, r.id) < ($2, $3) AND r.created_at >= $4
         ORDER BY r.created_at DESC, r.id DESC LIMIT $5)
    {_WHOLE}
"""
_DEAD = f"""
    SELECT {_COLUMNS} FROM (
        SELECT j.run_id FROM unnest($4::text[]) k (kind) CROSS JOIN LATERAL (
            SELECT j.run_id FROM steelyard.job j
             WHERE j.tenant_id = $1 AND j.kind = k.kind AND j.state = 'dead' AND j.run_id < $2
             ORDER BY j.run_id DESC LIMIT $3) j
         ORDER BY j.run_id DESC LIMIT $3) d
     CROSS JOIN LATERAL (
        SELECT * FROM steelyard.run x WHERE x.tenant_id = $1 AND x.id = d.run_id OFFSET 0) r
     ORDER BY r.id DESC
"""
# Each number is of at most $4 rows, each duration of at most $5: what is asked for here never walks a history.
_FIGURES = """
    SELECT k.kind, o.waiting, o.delayed, a.active, c.completed, f.failed, d.durations[1] AS p50, d.durations[2] AS p95
      FROM unnest($2::text[]) k (kind)
     CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE coalesce(j.due_at <= $6, q.state = 'pending')) AS waiting,
               count(*) FILTER (WHERE NOT coalesce(j.due_at <= $6, q.state = 'pending')) AS delayed
          FROM unnest(ARRAY['pending', 'retrying']) s (state)
         CROSS JOIN LATERAL (SELECT r.id, r.state FROM steelyard.run r
                              WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = s.state LIMIT $4) q
          LEFT JOIN steelyard.job j ON j.tenant_id = $1 AND j.run_id = q.id) o
     CROSS JOIN LATERAL (
        SELECT count(*) AS active FROM (
            SELECT FROM steelyard.run r WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = 'running' LIMIT $4) q) a
     CROSS JOIN LATERAL (
        SELECT count(*) AS completed FROM (
            SELECT FROM steelyard.run r WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = 'completed'
               AND r.created_at >= $3 LIMIT $4) q) c
     CROSS JOIN LATERAL (
        SELECT count(*) AS failed FROM unnest(ARRAY['failed', 'expired']) s (state) CROSS JOIN LATERAL (
            SELECT FROM steelyard.run r WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = s.state
               AND r.created_at >= $3 LIMIT $4) q) f
     CROSS JOIN LATERAL (
        SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY q.seconds) AS durations FROM (
            SELECT extract(epoch FROM r.finished_at - r.started_at)::double precision AS seconds FROM steelyard.run r
             WHERE r.tenant_id = $1 AND r.kind = k.kind AND r.state = 'completed' AND r.created_at >= $3
             ORDER BY r.created_at DESC, r.id DESC LIMIT $5) q) d
     ORDER BY k.kind
"""
_DELETE_OLD = """
    WITH old AS MATERIALIZED (
        SELECT r.id FROM steelyard.run r
         WHERE r.tenant_id = $1 AND r.kind = $2 AND r.state = $3 AND r.created_at < $4 AND r.finished_at < $4
         ORDER BY r.created_at, r.id LIMIT $5 FOR UPDATE SKIP LOCKED)
    DELETE FROM steelyard.run r WHERE r.tenant_id = $1 AND r.id = ANY (ARRAY (SELECT o.id FROM old o))
"""
_COUNT_OLD = """
    SELECT count(*) FROM steelyard.run r
     WHERE r.tenant_id = $1 AND r.kind = $2 AND r.state = $3 AND r.created_at < $4 AND r.finished_at < $4
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is counted: rows of each kind and state, and the newest whose durations are looked at."""

    counted_max: int
    timed_max: int


async def find_public(database: Database, run: int, token_hash: bytes) -> PublicRun | None:
    """Return the run of any tenant that a public token may read. One indexed read."""
    async with database.connection() as connection:
        row = await connection.fetchrow(_FIND_PUBLIC, run, token_hash)
    if row is None:
        return None
    return PublicRun(run, State(row["state"]), row["progress"], row["result"], row["error"])


async def find_run(uow: UnitOfWork, run: int) -> SeenRun | None:
    """Return a run of the tenant."""
    row = await uow.fetchrow(_FIND, uow.tenant, run)
    return None if row is None else _run_of(row)


async def list_kinds(uow: UnitOfWork) -> list[str]:
    """Return the kinds of which the tenant has runs, by one probe each."""
    return [row["kind"] for row in await uow.fetch(_KINDS, uow.tenant)]


async def list_runs(
    uow: UnitOfWork, wanted: RunFilter, kinds: Sequence[str], *, before: RunPlace, limit: int
) -> list[SeenRun]:
    """Return runs of these kinds, newest first, from before a place."""
    states = [str(state) for state in (wanted.states or tuple(State))]
    inputs: list[object] = [
        uow.tenant,
        before.created_at,
        before.run,
        wanted.since,
        limit,
        list(kinds),
        states,
    ]
    if wanted.subject is not None:
        sql = _PAGE_OF_SUBJECT
        inputs += [wanted.error_code, wanted.subject]
    elif wanted.error_code is not None:
        sql = _PAGE_OF_ERROR
        inputs.append(wanted.error_code)
    else:
        sql = _PAGE
    return [_run_of(row) for row in await uow.fetch(sql, *inputs)]


async def list_dead(
    uow: UnitOfWork, kinds: Sequence[str], *, before: int, limit: int
) -> list[SeenRun]:
    """Return the runs of dead letters of these kinds, the newest first, from before a run."""
    rows = await uow.fetch(_DEAD, uow.tenant, before, limit, list(kinds))
    return [_run_of(row) for row in rows]


async def load_figures(
    uow: UnitOfWork, kinds: Sequence[str], bounds: Bounds, *, since: datetime, now: datetime
) -> list[KindFigures]:
    """Return how many runs of each kind stand where; of those that ended, only what was asked for since then."""
    rows = await uow.fetch(
        _FIGURES, uow.tenant, list(kinds), since, bounds.counted_max, bounds.timed_max, now
    )
    return [
        KindFigures(
            kind=row["kind"],
            waiting=row["waiting"],
            active=row["active"],
            delayed=row["delayed"],
            completed=row["completed"],
            failed=row["failed"],
            p50_s=row["p50"],
            p95_s=row["p95"],
        )
        for row in rows
    ]


async def delete_old(
    uow: UnitOfWork, kind: str, state: State, *, before: datetime, limit: int
) -> int:
    """Delete runs that ended before a moment, the oldest first; those somebody has locked stay. Returns how many."""
    tag = await uow.execute(_DELETE_OLD, uow.tenant, kind, state, before, limit)
    return int(tag.rpartition(" ")[2])


async def count_old(uow: UnitOfWork, kind: str, state: State, *, before: datetime) -> int:
    """Return how many runs `delete_old` would delete in the end."""
    return int(await uow.fetchval(_COUNT_OLD, uow.tenant, kind, state, before))


def _run_of(row: asyncpg.Record | Mapping[str, object]) -> SeenRun:
    return SeenRun(**{**dict(row), "state": State(str(row["state"]))})
