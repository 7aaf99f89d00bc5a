"""All SQL of jobs and of their runs."""

from datetime import datetime
from hashlib import sha256

from steelyard.jobs.model import Kind, RunRequest
from steelyard.runtime.database import UnitOfWork

_REQUEST = "SELECT * FROM steelyard.request_run($1, $2, $3, $4, $5::jsonb, $6, $7, $8, $9, $10, $11, $12, $13)"


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
