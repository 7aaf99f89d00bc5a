"""Many clients at once, each with a habit, all from one seed: what they do is repeatable, what they meet is not.

Balances stay near zero, so refusals are common; two accounts are hot; holds are ended twice and transactions reversed
beyond their whole on purpose.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from tests.crash.history import Asked, Done, History, Invocation, Outcome, Reading, Unknown
from tests.crash.target import ProcessDown, Target

# What clients do, and how often.
MIX = {
    "charge": 34,
    "recharge": 22,
    "hold": 13,
    "capture": 7,
    "release": 6,
    "reversal": 10,
    "transfer": 8,
}
READ_SHARE = 0.12
HOT_SHARE = 0.45
HOT_ACCOUNTS = 2
KNOWN_LIMIT = 200
RETRY_PAUSE_S = 0.05
AWAY_PAUSE_S = 0.02
INSIST_DEADLINE_S = 60.0


@dataclass(slots=True)
class Pace:
    """How long the workload goes on: until so many orders were sent and enough was killed, or a time has passed."""

    operations: int
    deadline_s: float = 600.0
    is_enough: Callable[[], bool] = lambda: True
    sent: int = 0
    _until: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Start the clock."""
        self._until = time.monotonic() + self.deadline_s

    @property
    def goes_on(self) -> bool:
        """Whether clients think of further orders."""
        wants_more = self.sent < self.operations or not self.is_enough()
        return wants_more and time.monotonic() < self._until


@dataclass(slots=True)
class Known:
    """What clients have learnt from answers and use in further orders; old things fall out."""

    holds: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    postings: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)

    def learn(self, asked: Asked, done: Done) -> None:
        """Remember a hold that can be ended, or a transaction that can be reversed."""
        if asked.kind == "hold" and done.held_amount > 0:
            _keep(self.holds, asked.account, (done.seq, done.held_amount))
        elif asked.kind in ("charge", "capture", "recharge", "transfer"):
            _keep(self.postings, asked.account, (done.seq, abs(done.amount)))


def _keep(known: dict[int, deque[tuple[int, int]]], account: int, found: tuple[int, int]) -> None:
    known.setdefault(account, deque(maxlen=KNOWN_LIMIT)).append(found)


class Workload:
    """Clients of one target over some accounts."""

    def __init__(
        self, target: Target, accounts: list[int], *, seed: int, clients: int, pace: Pace
    ) -> None:
        self.target, self.accounts, self.seed, self.clients, self.pace = (
            target,
            accounts,
            seed,
            clients,
            pace,
        )
        self.history, self.known = History(), Known()

    async def run(self) -> History:
        """Let all clients work until the pace ends; those who insist get their answers first."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.clients):
                group.create_task(_Client(self, number).work())
        return self.history


@dataclass(slots=True)
class _Client:
    """One client: a dice of its own, a habit, and keys nobody else uses."""

    workload: Workload
    number: int
    dice: random.Random = field(init=False)
    orders: int = 0

    def __post_init__(self) -> None:
        self.dice = random.Random(f"{self.workload.seed}/{self.number}")

    async def work(self) -> None:
        habits: list[Callable[[Asked], Awaitable[None]]] = [
            self._give_up,
            self._insist,
            self._insist,
            self._send_twice_at_once,
            self._reuse_key,
        ]
        habit = habits[self.number % len(habits)]
        while self.workload.pace.goes_on:
            if self.dice.random() < READ_SHARE:
                await self._read(self._account())
            else:
                await habit(self._think())

    # --- what to ask ---------------------------------------------------------------------------------------------

    def _account(self) -> int:
        accounts = self.workload.accounts
        if self.dice.random() < HOT_SHARE:
            return accounts[self.dice.randrange(min(HOT_ACCOUNTS, len(accounts)))]
        return self.dice.choice(accounts)

    def _think(self) -> Asked:
        kind = self.dice.choices(list(MIX), list(MIX.values()))[0]
        account, amount = self._account(), self.dice.randint(1, 40)
        self.orders += 1
        asked = Asked(kind, account, amount, f"{self.workload.seed}-{self.number}-{self.orders}")
        if kind == "transfer":
            counter = self._account()
            return msgspec.structs.replace(asked, counter=counter)
        if kind in ("capture", "release"):
            return self._end_of_hold(asked)
        return self._reversal(asked) if kind == "reversal" else asked

    def _end_of_hold(self, asked: Asked) -> Asked:
        holds = self.workload.known.holds.get(asked.account)
        if not holds:
            return msgspec.structs.replace(asked, kind="hold")
        place = self.dice.randrange(len(holds))
        seq, amount = holds[place]
        if self.dice.random() < 0.7:  # else another client ends it too
            del holds[place]
        part: int | None = None
        if asked.kind == "capture" and self.dice.random() < 0.6:
            part = self.dice.randint(1, amount + 1)  # once in a while more than was held
        return msgspec.structs.replace(asked, amount=part, target=seq)

    def _reversal(self, asked: Asked) -> Asked:
        postings = self.workload.known.postings.get(asked.account)
        if not postings:
            return msgspec.structs.replace(asked, kind="recharge")
        place = self.dice.randrange(len(postings))
        seq, amount = postings[place]
        if self.dice.random() < 0.4:  # else it is reversed again, in parts, beyond its whole
            del postings[place]
        part = self.dice.randint(1, amount) if self.dice.random() < 0.7 and amount else None
        return msgspec.structs.replace(asked, amount=part, target=seq)

    # --- how to ask ----------------------------------------------------------------------------------------------

    async def _give_up(self, asked: Asked) -> None:
        await self._send(asked, self._process())

    async def _insist(self, asked: Asked) -> None:
        until = time.monotonic() + INSIST_DEADLINE_S
        while isinstance(await self._send(asked, self._process()), Unknown):
            if time.monotonic() > until:
                raise AssertionError(f"no answer for key {asked.key} in {INSIST_DEADLINE_S:.0f} s")
            await asyncio.sleep(RETRY_PAUSE_S)
        if self.dice.random() < 0.15:  # the answer was lost on the way, as far as anybody knows
            await self._send(asked, self._process())

    async def _send_twice_at_once(self, asked: Asked) -> None:
        first = self._process()
        others = len(self.workload.target.processes)
        second = (first + self.dice.randrange(others)) % others
        await asyncio.gather(self._send(asked, first), self._send(asked, second))
        await self._insist(asked)

    async def _reuse_key(self, asked: Asked) -> None:
        await self._send(asked, self._process())
        if self.dice.random() < 0.5:
            other = msgspec.structs.replace(asked, amount=(asked.amount or 0) + 1)
            if asked.kind == "release":
                other = msgspec.structs.replace(asked, kind="capture", amount=1)
            await self._send(other, self._process())

    def _process(self) -> int:
        return self.dice.randrange(len(self.workload.target.processes))

    async def _send(self, asked: Asked, process: int) -> Outcome:
        """Send until a process takes it; record what came of it."""
        target = self.workload.target
        while True:
            invoked_s = time.monotonic()
            try:
                outcome = await target.send(process, asked)
            except ProcessDown:
                await asyncio.sleep(AWAY_PAUSE_S)
                process = (process + 1) % len(target.processes)
                continue
            seen = Invocation(self.number, process, asked, invoked_s, time.monotonic(), outcome)
            self.workload.history.record(seen)
            self.workload.pace.sent += 1
            if isinstance(outcome, Done):
                self.workload.known.learn(asked, outcome)
            return outcome

    async def _read(self, account: int) -> None:
        process, target = self._process(), self.workload.target
        invoked_s = time.monotonic()
        try:
            found = await target.read(process, account)
        except ProcessDown:
            await asyncio.sleep(AWAY_PAUSE_S)
            return
        if found is not None:
            self.workload.history.record(
                Reading(
                    self.number,
                    process,
                    account,
                    found.seq,
                    found.posted,
                    found.held,
                    invoked_s,
                    time.monotonic(),
                )
            )
