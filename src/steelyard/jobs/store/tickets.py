"""SQL of what procrastinate keeps. What its own client can do is left to it."""

from collections.abc import Sequence
from datetime import timedelta

from steelyard.jobs.port import TicketCounts
from steelyard.runtime.database import Database

_WAITING_TICKETS = """
    SELECT queueing_lock FROM steelyard_jobs.procrastinate_jobs WHERE status = 'todo' AND queueing_lock = ANY ($1)
"""
_CANCEL_TICKET = """
    DELETE FROM steelyard_jobs.procrastinate_jobs WHERE status = 'todo' AND queueing_lock = $1 RETURNING id
"""
_COUNT_WAITING = """
    SELECT count(*) FROM (SELECT FROM steelyard_jobs.procrastinate_jobs WHERE status = 'todo' LIMIT $1) w
"""
_COUNT_TICKETS = """
    SELECT queue_name, count(*) FILTER (WHERE status = 'todo') AS waiting, count(*) FILTER (WHERE status = 'doing') AS active
      FROM steelyard_jobs.procrastinate_jobs WHERE status IN ('todo', 'doing') GROUP BY queue_name
"""
_FORGET_STALLED = """
    WITH stalled AS (
        DELETE FROM steelyard_jobs.procrastinate_jobs j
         WHERE j.status = 'doing' AND NOT EXISTS (
               SELECT FROM steelyard_jobs.procrastinate_workers w
                WHERE w.id = j.worker_id AND w.last_heartbeat >= now() - $1::interval)
        RETURNING 1)
    SELECT count(*) FROM stalled
"""
_FORGET_WORKERS = """
    DELETE FROM steelyard_jobs.procrastinate_workers WHERE last_heartbeat < now() - 10 * $1::interval
"""
_DELETE_OLD_TICKETS = """
    WITH done AS (
        SELECT j.id, row_number() OVER (PARTITION BY j.queue_name ORDER BY j.id DESC) AS position,
               (SELECT max(e.at) FROM steelyard_jobs.procrastinate_events e WHERE e.job_id = j.id) AS ended_at
          FROM steelyard_jobs.procrastinate_jobs j WHERE j.status NOT IN ('todo', 'doing')),
    gone AS (
        DELETE FROM steelyard_jobs.procrastinate_jobs j USING done d
         WHERE j.id = d.id AND (d.position > $2 OR d.ended_at < now() - $1::interval)
        RETURNING 1)
    SELECT count(*) FROM gone
"""


async def list_waiting_tickets(database: Database, names: Sequence[str]) -> set[str]:
    """Return which of these tickets wait in procrastinate's table."""
    rows = await database.fetch(_WAITING_TICKETS, list(names))
    return {row["queueing_lock"] for row in rows}


async def cancel_ticket(database: Database, name: str) -> bool:
    """Forget a ticket that waits in procrastinate's table. Returns whether there was one."""
    return bool(await database.fetch(_CANCEL_TICKET, name))


async def count_waiting_tickets(database: Database, *, most: int) -> int:
    """Return how many tickets wait in procrastinate's table, counted up to `most`."""
    return int(await database.fetchval(_COUNT_WAITING, most))


async def count_tickets(database: Database) -> dict[str, TicketCounts]:
    """Return how many tickets procrastinate has, by kind."""
    rows = await database.fetch(_COUNT_TICKETS)
    return {row["queue_name"]: TicketCounts(row["waiting"], row["active"]) for row in rows}


async def forget_stalled_tickets(database: Database, *, stalled: timedelta) -> int:
    """Delete tickets whose procrastinate worker gave no sign of life, and workers long gone. Returns how many tickets."""
    forgotten = int(await database.fetchval(_FORGET_STALLED, stalled))
    await database.fetch(_FORGET_WORKERS, stalled)
    return forgotten


async def delete_old_tickets(database: Database, *, older_than: timedelta, newest_kept: int) -> int:
    """Delete what procrastinate keeps of tickets that are done. Returns how many."""
    return int(await database.fetchval(_DELETE_OLD_TICKETS, older_than, newest_kept))
