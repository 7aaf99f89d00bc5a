"""The core bank of `bench sync`, in a process of its own: `python -m steelyard.cli.benchmarks.sync_bank`.

The product's own simulator over real HTTP. It notes when each request came. The plan comes as one line of JSON on
stdin; the port goes out as one line on stdout. When stdin ends, what was noted is written to the plan's file.
"""

import asyncio
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import msgspec

from steelyard.cli.serving import run_in_loop
from steelyard.core.money import Currency
from steelyard.providers.t24.simulator.answers import Reply
from steelyard.providers.t24.simulator.bank import AskedRequest, BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import LATENCIES
from steelyard.providers.t24.simulator.serve import serve_bank
from steelyard.runtime.clock import SystemClock

KEY = "benchmark"
LATENCY = "quick"


class BankPlan(msgspec.Struct, frozen=True):
    """What the bank has in its books, and where it writes what it saw."""

    first_number: int
    accounts: int
    file: str


class BankSaw(msgspec.Struct, frozen=True):
    """What the bank's own meter counted."""

    requests: int
    in_flight_max: int
    in_flight_max_of_one: int


class NotingBank(SimulatedBank):
    """A bank that notes each request: when it came (UTC, microseconds), and which account it is about."""

    def __init__(self, books: Books) -> None:
        options = BankOptions(key=KEY, latency=LATENCIES[LATENCY])
        super().__init__(books, chance=Random(1), clock=SystemClock(), options=options)  # noqa: S311
        self.noted = array("q")

    @contextmanager
    def answering(self, request: AskedRequest) -> Iterator[Reply]:
        """Note a request, then answer it."""
        number = int(request.target.split("/")[2])
        self.noted.extend((time.time_ns() // 1_000, number))
        with super().answering(request) as reply:
            yield reply


def make_books(plan: BankPlan) -> Books:
    """Return the books: one account a customer."""
    books, pounds = Books(), Currency("GBP", 2)
    for number in range(plan.first_number, plan.first_number + plan.accounts):
        books.add(SimulatedAccount(str(number), f"c{number}", pounds, booked=number % 100_000))
    return books


async def _run() -> None:
    loop = asyncio.get_running_loop()
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=BankPlan)
    bank = NotingBank(make_books(plan))
    async with serve_bank(bank) as server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        while await loop.run_in_executor(None, sys.stdin.buffer.readline):
            counts = bank.counts
            most = max(counts.in_flight_max_of.values(), default=0)
            told = BankSaw(counts.requests, counts.in_flight_max, most)
            sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
            sys.stdout.flush()
    with open(plan.file, "wb") as file:  # noqa: ASYNC230  (everything is over)
        bank.noted.tofile(file)


if __name__ == "__main__":
    run_in_loop(_run(), wants_uvloop=True)
