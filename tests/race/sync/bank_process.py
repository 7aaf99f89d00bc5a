"""A simulated core bank in a process of its own: `python -m tests.race.sync.bank_process`.

Its balances move by themselves and never take a value twice per account, so that whatever was read is one moment of the
account's history. The plan comes as one line of JSON on stdin; the address goes out as one line on stdout. Each further
line is an order, answered by one line: `move` (balances move from now on), `rest`, or `tell` (all it knows).
"""

import asyncio
import json
import sys
from collections import defaultdict
from random import Random
from typing import Any

from steelyard.core.money import Currency
from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import LATENCIES
from steelyard.providers.t24.simulator.serve import serve_bank
from steelyard.runtime.clock import SystemClock

TICK_S = 0.02


class MovingBank:
    """A bank and the history of each of its balances."""

    def __init__(self, plan: dict[str, Any]) -> None:
        chance = Random(plan["seed"])
        books, pounds = Books(), Currency("GBP", 2)
        for number in plan["numbers"]:
            books.add(SimulatedAccount(number, f"c{number}", pounds, booked=1_000))
        options = BankOptions(key=plan["key"], latency=LATENCIES[plan["latency"]])
        self.bank = SimulatedBank(books, chance=chance, clock=SystemClock(), options=options)
        self.histories: dict[str, list[int]] = defaultdict(lambda: [1_000])
        self.is_moving = False
        self._chance, self._per_s = Random(plan["seed"] + 1), float(plan["moves_per_s"])

    async def move(self) -> None:
        """Move balances for ever, while it is asked for: always up, so that no value comes again."""
        numbers = sorted(self.bank.books.accounts)
        while True:
            await asyncio.sleep(TICK_S)
            if self.is_moving:
                for _ in range(max(1, round(self._per_s * TICK_S))):
                    account = self.bank.books.accounts[self._chance.choice(numbers)]
                    account.booked += self._chance.randrange(1, 500)
                    self.histories[account.number].append(account.booked)

    def tell(self) -> dict[str, Any]:
        """Return what it knows."""
        counts = self.bank.counts
        return {
            "requests": counts.requests,
            "asked": dict(counts.asked),
            "most_in_flight_of_one": max(counts.in_flight_max_of.values(), default=0),
            "in_flight": counts.in_flight,
            "faults": dict(counts.faults),
            "histories": {number: self.histories[number] for number in self.bank.books.accounts},
        }


async def _run() -> None:
    loop = asyncio.get_running_loop()
    moving = MovingBank(json.loads(sys.stdin.readline()))
    task = asyncio.create_task(moving.move())
    async with serve_bank(moving.bank) as server:
        _say(server.url)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = line.strip()
            moving.is_moving = order == "move" or (moving.is_moving and order != "rest")
            _say(moving.tell() if order == "tell" else "done")
    task.cancel()


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_run())
