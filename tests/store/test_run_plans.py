"""What a page, a figure or a poll reads does not grow with the number of runs."""

import json
from datetime import timedelta

import asyncpg
import pytest

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.list_runs import list_runs
from steelyard.jobs.model import State
from steelyard.jobs.seen_run import RunFilter, RunPlace
from steelyard.jobs.store import runs
from steelyard.jobs.store.runs import Bounds
from steelyard.runtime.database import Connection, UnitOfWork
from tests.world import World

# Half of one kind and half of another; one in 50 failed; a rare error of one in 10,000; 500 users.
FILL = """
INSERT INTO steelyard.run (tenant_id, id, kind, subject, priority, state, attempts, result, error, token_hashes, created_at,
                           started_at, finished_at)
SELECT 'default', nextval('steelyard.run_id'), CASE g % 2 WHEN 0 THEN 'update-balances' ELSE 'other-kind' END, 'u' || g % 500,
       0, CASE WHEN g % 50 = 0 THEN 'failed' ELSE 'completed' END, 1, '{"success": true}',
       CASE WHEN g % 50 = 0 THEN json_build_object('code', CASE WHEN g % 10000 = 0 THEN 'rare' ELSE 'timeout' END) END,
       ARRAY[sha256(g::text::bytea)], t, t, t + interval '1 s'
  FROM generate_series(1, $1) g CROSS JOIN LATERAL (SELECT $2::timestamptz - g * interval '100 ms' AS t) m
"""
FILTERS = (
    RunFilter(),
    RunFilter(kinds=("update-balances",)),
    RunFilter(states=(State.FAILED,)),
    RunFilter(states=(State.PENDING, State.RUNNING)),
    RunFilter(kinds=("other-kind",), states=(State.FAILED,)),
    RunFilter(error_code="rare"),
    RunFilter(error_code="nothing"),
    RunFilter(subject="u7"),
    RunFilter(subject="u7", kinds=("other-kind",)),
    RunFilter(subject="nobody"),
)
POLL = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM steelyard.read_public_run($1, $2)"
NEWEST = "SELECT id, token_hashes[1] AS hash FROM steelyard.run ORDER BY id DESC LIMIT 1"
PAGE_BLOCKS_MAX = 700
POLL_BLOCKS_MAX = 12


class Counting:
    """A unit of work that counts the blocks its queries touch."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.tenant, self.blocks = connection, DEFAULT_TENANT, 0

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        text = await self.connection.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *args
        )
        plan = json.loads(text)[0]["Plan"]
        self.blocks += int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
        return await self.connection.fetch(sql, *args)


async def blocks_of_pages(connection: Connection, *, before: RunPlace) -> dict[RunFilter, int]:
    """The blocks that one page of each filter touches."""
    found = {}
    for wanted in FILTERS:
        counting = Counting(connection)
        uow: UnitOfWork = counting  # type: ignore[assignment]
        kinds = wanted.kinds or await runs.list_kinds(uow)
        await runs.list_runs(uow, wanted, kinds, before=before, limit=51)
        found[wanted] = counting.blocks
    return found


async def blocks_of_a_poll(connection: Connection, run: int, token_hash: bytes) -> int:
    """The blocks that following one run touches."""
    text = await connection.fetchval(POLL, run, token_hash)
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
async def test_a_page_and_a_poll_read_a_bounded_number_of_blocks(world: World, count: int) -> None:
    admin = await world.as_superuser()
    now = world.clock.now()
    await admin.execute("SET steelyard.tenant = 'default'")
    for is_analyzed in (False, True):  # statistics still say that the table is empty, at first
        if is_analyzed:
            await admin.execute("VACUUM ANALYZE steelyard.run", timeout=200)
        else:
            await admin.execute(FILL, count, now, timeout=200)
        for place in (RunPlace(), RunPlace(now - timedelta(milliseconds=50 * count))):
            found = await blocks_of_pages(admin, before=place)
            assert max(found.values()) <= PAGE_BLOCKS_MAX, found
        [row] = await admin.fetch(NEWEST)
        polls = [
            await blocks_of_a_poll(admin, *asked)
            for asked in ((row["id"], row["hash"]), (row["id"], b"x"), (2**60, row["hash"]))
            for _ in range(2)
        ][1::2]  # the first in a connection reads the catalog too
        # A right token costs the tenant's row beside the run's, and a wrong one as much as a wrong id.
        assert max(polls) <= POLL_BLOCKS_MAX
        assert max(polls) - min(polls) <= 3
    await admin.close()
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        seen = await list_runs(uow, RunFilter(error_code="rare"), cursor=None, limit=200)
        assert len(seen.runs) == min(count // 10_000, 200)
        assert seen.runs[0].state is State.FAILED
        bounds = Bounds(1_000, 100)
        figures = await runs.load_figures(
            uow, ["other-kind"], bounds, since=now - timedelta(days=1), now=now
        )
        assert (figures[0].completed, figures[0].failed) == (1_000, 0)
        assert figures[0].p50_s == figures[0].p95_s == 1.0
