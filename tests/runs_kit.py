"""Runs straight into the table, in any state and of any age."""

import json
from datetime import datetime, timedelta

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.model import State
from steelyard.jobs.request_run import hash_token
from steelyard.runtime.database import Database

_INSERT = """
    INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, attempts, progress, result, error, token_hashes,
                               created_at, started_at, finished_at)
    VALUES ($1, nextval('steelyard.run_id'), $2, $3, 0, $4, 1, $5, $6::json, $7::json, $8, $9, $9, $10) RETURNING id
"""


async def write_run(
    database: Database,
    *,
    at: datetime,
    tenant: TenantId = DEFAULT_TENANT,
    kind: str = "update-balances",
    subject: str = "ann",
    state: State = State.COMPLETED,
    took: timedelta = timedelta(seconds=2),
    error: str | None = None,
    token: str | None = None,
) -> int:
    """Write one run, asked for at a moment; returns its id."""
    result = {"success": True} if state is State.COMPLETED else None
    async with database.unit_of_work(tenant) as uow:
        return int(
            await uow.fetchval(
                _INSERT,
                tenant,
                kind,
                subject,
                state,
                100 if state is State.COMPLETED else 0,
                None if result is None else json.dumps(result),
                None if error is None else json.dumps({"code": error, "message": "no"}),
                [] if token is None else [hash_token(token)],
                at,
                at + took if state.is_final else None,
            )
        )
