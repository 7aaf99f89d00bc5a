"""The commits of `bench push`, in a process of their own: `python -m steelyard.cli.benchmarks.push_commits`.

Real charges through the product's ledger, published on `balance:updates` as the product does: the same for every
side. The plan comes as one line of JSON on stdin; then each line asks for one run and is answered by one line when it
is done.
"""

import asyncio
import sys
import time
from array import array
from typing import Any

import msgspec

from steelyard.cli.benchmarks.callers import Keys, Picks
from steelyard.cli.benchmarks.product import open_product
from steelyard.cli.serving import run_in_loop
from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.runtime.bus import BalanceEvent

BURST_CALLERS = 64
TICK_S = 0.005
SETTLE_S = 3.0
"""Until the relay has kept where it stands: the next process would else tell the last changes again."""


class CommitsPlan(msgspec.Struct, frozen=True):
    """What is charged, and where it is told."""

    database_url: str
    redis_url: str
    first_account: int
    accounts: int
    file: str


class Run(msgspec.Struct, frozen=True):
    """One run: `count` charges, at `per_s` a second or, where that is 0, as fast as 64 callers can."""

    count: int
    per_s: float = 0.0


class Commits:
    """The moment each commit was known here (monotonic, ns), by account and `seq`."""

    def __init__(self) -> None:
        self.known = array("q")

    def hear(self, event: BalanceEvent) -> None:
        """Note one change."""
        if event.seq is not None:
            self.known.extend((event.account, event.seq, time.monotonic_ns()))


async def _charge_all(services: Any, plan: CommitsPlan, run: Run) -> None:
    ledger, keys = services.ledger(DEFAULT_TENANT), Keys()
    picks = Picks(range(plan.first_account, plan.first_account + plan.accounts))

    async def charge() -> None:
        await ledger.charge(AccountId(picks.next()), 1, key=keys.next())

    if run.per_s:
        await _charge_steadily(charge, run)
        return
    left = run.count

    async def call() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await charge()

    async with asyncio.TaskGroup() as group:
        for _ in range(BURST_CALLERS):
            group.create_task(call())


async def _charge_steadily(charge: Any, run: Run) -> None:
    """Start charges evenly; each is its own task, so a slow one delays no other."""
    began_s, started = time.monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while started < run.count:
            due = min(run.count, int((time.monotonic() - began_s) * run.per_s) + 1)
            for _ in range(due - started):
                group.create_task(charge())
            started = max(started, due)
            await asyncio.sleep(TICK_S)


async def _run() -> None:
    loop = asyncio.get_running_loop()
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=CommitsPlan)
    commits = Commits()
    async with open_product(plan.database_url, redis_url=plan.redis_url) as services:
        services.bus.subscribe(commits.hear)
        _tell(commits)
        while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
            await _charge_all(services, plan, msgspec.json.decode(line, type=Run))
            _tell(commits)
        await asyncio.sleep(SETTLE_S)
    with open(plan.file, "wb") as file:  # noqa: ASYNC230  (everything is over)
        commits.known.tofile(file)


def _tell(commits: Commits) -> None:
    sys.stdout.write(f"{len(commits.known) // 3}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_in_loop(_run(), wants_uvloop=True)
