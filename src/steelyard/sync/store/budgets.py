"""All SQL of budgets: what each source allows each tenant."""

import asyncpg

from steelyard.runtime.database import UnitOfWork
from steelyard.sync.model import Budget, Circuit

_BUDGET = """
    SELECT rate_per_s, burst, tokens, refilled_at, in_flight_max, daily_on, login_share, daily_limit, daily_used,
           blocked_until, circuit, circuit_until, circuit_failures, circuit_openings, paused_at
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


async def find_budget(uow: UnitOfWork, provider: str) -> Budget | None:
    """Return the tenant's budget at a source, as it is at this moment."""
    row = await uow.fetchrow(_BUDGET, uow.tenant, provider)
    return None if row is None else _budget_of(row)


async def lock_budget(uow: UnitOfWork, provider: str) -> Budget | None:
    """Return the tenant's budget at a source, its row locked until `uow` ends; None where it has none."""
    row = await uow.fetchrow(_BUDGET + "FOR NO KEY UPDATE", uow.tenant, provider)
    return None if row is None else _budget_of(row)


async def lock_free_budget(uow: UnitOfWork, provider: str) -> Budget | None:
    """As `lock_budget`; None too where somebody else has it locked at this moment."""
    row = await uow.fetchrow(_BUDGET + "FOR NO KEY UPDATE SKIP LOCKED", uow.tenant, provider)
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
