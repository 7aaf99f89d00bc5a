"""A real database under virtual time: one statement at a time, in an order that follows from a seed."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import asyncpg
import pytest

from steelyard.access.tenants import create_tenant
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.providers.contract import Limits
from steelyard.runtime.database import Database
from steelyard.sync.enroll import allow_requests
from steelyard.sync.store import budgets
from steelyard.testing.one_at_a_time import Turns
from steelyard.testing.simulated_process import ProcessGone
from steelyard.testing.virtual_time import VirtualClock, VirtualTimeLoop, run_in_virtual_time
from tests.world import FreshDatabase, drop_database, make_fresh

T = TypeVar("T")
LOCK = "SELECT pg_advisory_xact_lock($1)"
"""Waits for another transaction as a locked row does."""


@pytest.fixture(scope="module")
def fresh(admin_url: str, template: str) -> Iterator[FreshDatabase]:
    """One database for all of these tests: none leaves anything behind but a tenant and its budget."""
    made = asyncio.run(make_fresh(admin_url, template))
    yield made
    asyncio.run(drop_database(admin_url, made.name))


def stepped(
    fresh: FreshDatabase,
    act: Callable[[Turns], Coroutine[Any, Any, T]],
    *,
    seed: int = 7,
    answer_s: float = 0.0,
) -> T:
    """Run `act` under virtual time, on the test's own database."""

    async def main(_: VirtualTimeLoop) -> T:
        turns = Turns(fresh.app_url, random.Random(seed), answer_s)
        await turns.open()
        try:
            return await act(turns)
        finally:
            await turns.close()

    return run_in_virtual_time(main)


async def _open(turns: Turns, fresh: FreshDatabase, name: str) -> Database:
    return await turns.process(name).open_database(fresh.app_url, size=4)


async def _hold(
    database: Database, *locks: int, for_s: float = 0.0, waits: str | None = None
) -> float:
    """Take locks in one transaction and keep them; returns when it ended."""
    async with database.unit_of_work(DEFAULT_TENANT) as uow:
        if waits is not None:
            await uow.fetchval("SELECT set_config('lock_timeout', $1, true)", waits)
        for lock in locks:
            await uow.fetchval(LOCK, lock)
            await asyncio.sleep(for_s)
    return asyncio.get_running_loop().time()


def test_no_time_passes_while_the_database_works(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        database = await _open(turns, fresh, "one")
        async with asyncio.timeout(0.001):
            await database.fetchval("SELECT pg_sleep(0.05)")
        return asyncio.get_running_loop().time()

    assert stepped(fresh, act) == 0.0


def test_an_answer_takes_its_virtual_time(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        database = await _open(turns, fresh, "one")
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(database.fetchval("SELECT 1") for _ in range(3)))
        return asyncio.get_running_loop().time() - began_s

    assert 0.1 <= stepped(fresh, act, answer_s=0.1) <= 0.5


def test_who_waits_for_a_row_lets_time_pass_and_goes_on_when_it_is_free(
    fresh: FreshDatabase,
) -> None:
    async def act(turns: Turns) -> tuple[tuple[float, float], int]:
        one, two = await _open(turns, fresh, "one"), await _open(turns, fresh, "two")
        first = asyncio.create_task(_hold(one, 1, for_s=10))
        await asyncio.sleep(1)
        second = await _hold(two, 1)
        return (await first, second), turns.waits

    assert stepped(fresh, act) == ((10.0, 10.0), 1)


def test_several_who_wait_for_one_row_get_it_one_after_the_other(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> list[float]:
        databases = [await _open(turns, fresh, name) for name in ("one", "two", "three", "four")]
        now = VirtualClock(asyncio.get_running_loop()).now()
        await create_tenant(databases[0], DEFAULT_TENANT, name="Rows", time_zone="UTC", now=now)
        async with databases[0].unit_of_work(DEFAULT_TENANT) as uow:
            await allow_requests(uow, "bank", Limits(1.0, 1), now=now)

        async def hold(database: Database, for_s: float) -> float:
            async with database.unit_of_work(DEFAULT_TENANT) as uow:
                for _ in range(2):
                    assert await budgets.lock_budget(uow, "bank") is not None
                    await asyncio.sleep(for_s)
            return asyncio.get_running_loop().time()

        work = [hold(database, place) for place, database in enumerate(databases, start=1)]
        return await asyncio.gather(*work)

    for seed in range(5):
        ends = stepped(fresh, act, seed=seed)
        assert max(ends) == 2.0 * (1 + 2 + 3 + 4)
        assert len(set(ends)) == 4


def test_who_waits_for_a_row_gives_up_after_the_statements_deadline(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        one, two = await _open(turns, fresh, "one"), await _open(turns, fresh, "two")
        first = asyncio.create_task(_hold(one, 1, for_s=100))
        await asyncio.sleep(1)
        with pytest.raises(DatabaseUnavailable):
            await _hold(two, 1)
        gave_up_s = asyncio.get_running_loop().time()
        await first
        return gave_up_s

    assert stepped(fresh, act) == 31.0


def test_a_limit_on_waiting_for_rows_is_kept_in_virtual_time(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        one, two = await _open(turns, fresh, "one"), await _open(turns, fresh, "two")
        first = asyncio.create_task(_hold(one, 1, for_s=100))
        await asyncio.sleep(1)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await _hold(two, 1, waits="300ms")
        refused_s = asyncio.get_running_loop().time()
        assert await _hold(two, 2) == refused_s
        await first
        return refused_s

    assert stepped(fresh, act) == 1.3


def test_transactions_that_wait_for_each_other_are_told_apart_by_the_server(
    fresh: FreshDatabase,
) -> None:
    async def act(turns: Turns) -> tuple[list[str], int]:
        one, two = await _open(turns, fresh, "one"), await _open(turns, fresh, "two")
        ends = await asyncio.gather(
            _hold(one, 1, 2, for_s=1), _hold(two, 2, 1, for_s=1), return_exceptions=True
        )
        return sorted(type(end).__name__ for end in ends), turns.deadlocks

    ends, deadlocks = stepped(fresh, act)
    # The server takes a second of its own to tell; on a busy machine the other one's deadline may pass meanwhile.
    assert "DeadlockDetectedError" in ends
    assert set(ends) <= {"DeadlockDetectedError", "DatabaseUnavailable", "float"}
    assert deadlocks == 1


def test_a_killed_process_writes_nothing_more_and_holds_no_row(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        process = turns.process("one")
        one = await process.open_database(fresh.app_url, size=1)
        two = await _open(turns, fresh, "two")
        process.after(2, process.kill)  # BEGIN and the lock; never its COMMIT
        with pytest.raises(DatabaseUnavailable) as caught:
            await _hold(one, 1, for_s=1)
        assert isinstance(caught.value.__cause__, ProcessGone)
        with pytest.raises(DatabaseUnavailable):
            await one.fetchval("SELECT 1")
        return await _hold(two, 1)

    assert stepped(fresh, act) == 0.0


def test_a_stopped_process_goes_on_where_it_was(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> tuple[float, float]:
        process = turns.process("one")
        one = await process.open_database(fresh.app_url, size=1)
        two = await _open(turns, fresh, "two")
        process.after(2, process.stop)
        first = asyncio.create_task(_hold(one, 1))
        asyncio.get_running_loop().call_later(20, process.resume)
        await asyncio.sleep(1)
        second = await _hold(two, 1)
        return await first, second

    assert stepped(fresh, act) == (20.0, 20.0)


def test_a_transaction_of_a_process_stopped_for_long_is_ended(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> float:
        process = turns.process("one")
        one = await process.open_database(fresh.app_url, size=1)
        two = await _open(turns, fresh, "two")
        process.after(2, process.stop)
        first = asyncio.create_task(_hold(one, 1))
        await asyncio.sleep(45)
        free_s = await _hold(two, 1)
        process.resume()
        with pytest.raises(DatabaseUnavailable):
            await first
        assert await one.fetchval("SELECT 1") == 1
        return free_s

    assert stepped(fresh, act) == 60.0


def test_a_statement_that_was_sent_is_done_before_its_caller_is_cancelled(
    fresh: FreshDatabase,
) -> None:
    async def act(turns: Turns) -> tuple[bool, int]:
        one = await _open(turns, fresh, "one")
        sent = asyncio.create_task(one.fetchval("SELECT nextval('steelyard.run_id')"))
        while turns.is_idle:  # noqa: ASYNC110 - until the server works on it
            await asyncio.sleep(0)
        sent.cancel()
        await asyncio.wait({sent})
        return sent.cancelled(), turns.statements

    assert stepped(fresh, act) == (True, 3)


def test_the_same_seed_chooses_the_same_order(fresh: FreshDatabase) -> None:
    def run(seed: int) -> list[object]:
        told: list[object] = []

        async def act(turns: Turns) -> None:
            turns.observe = lambda process, sql, args, answer: told.append((process, args))
            databases = [await _open(turns, fresh, name) for name in ("one", "two", "three")]
            asked = [
                database.fetchval("SELECT $1::int", i) for i in range(12) for database in databases
            ]
            await asyncio.gather(*asked)

        stepped(fresh, act, seed=seed)
        return told

    assert run(1) == run(1) != run(2)


def test_who_still_asks_at_the_end_is_told_so(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> list[str]:
        one = await _open(turns, fresh, "one")
        asked = [asyncio.create_task(one.fetchval("SELECT pg_sleep(60)")) for _ in range(2)]
        while turns.is_idle:  # noqa: ASYNC110 - until the server works on one
            await asyncio.sleep(0)
        asked[0].cancel()
        await turns.close()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(DatabaseUnavailable):
            await one.fetchval("SELECT 1")
        return [type(end).__name__ for end in ends]

    assert stepped(fresh, act) == ["CancelledError", "DatabaseUnavailable"]


def test_errors_of_the_server_reach_who_asked(fresh: FreshDatabase) -> None:
    async def act(turns: Turns) -> None:
        one = await _open(turns, fresh, "one")
        with pytest.raises(asyncpg.DivisionByZeroError):
            await one.fetchval("SELECT 1 / 0")
        assert await one.fetchval("SELECT 1") == 1

    stepped(fresh, act)
