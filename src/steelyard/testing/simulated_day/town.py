"""The bank of the day, with its customers: what every balance was at every moment, and who was asked for when."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx2

from steelyard.core.clock import Clock
from steelyard.core.ids import UserId
from steelyard.core.money import Currency
from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import LATENCIES, FaultPlan, PlannedFault
from steelyard.providers.t24.simulator.in_memory import InMemoryTransport
from steelyard.runtime.currencies import find_currency
from steelyard.testing.simulated_day.plan import SLOW, UNREACHABLE, DayPlan, Incident
from steelyard.testing.simulated_day.trace import Trace

ACCOUNTS_OF_A_USER = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)
WALLET_EVERY = 10


@dataclass(slots=True)
class _SeenFaults(FaultPlan):
    """Notes which fault meets which request."""

    trace: Trace | None = None

    def draw(self, chance: Random, numbers: frozenset[str]) -> PlannedFault | None:
        """Return the fault that meets a request, or None."""
        # Named in full: `super()` means another class in one with slots.
        fault = FaultPlan.draw(self, chance, numbers)
        if self.trace is not None:
            met = "-" if fault is None else fault.fault.value
            self.trace.add("request", *sorted(numbers), met)
        return fault


@dataclass(slots=True)
class Town:
    """A simulated bank and who has accounts there.

    Args:
        bank: Its books are the truth.
        owners: Whose an account is, by its number.
        truth: What was available on an account from which second on, oldest first.
        asked: Seconds and numbers of all requests.
        wallet_since: Users who are not to be asked for, and from which second on.
    """

    plan: DayPlan
    bank: SimulatedBank
    clock: Clock
    currency: Currency
    owners: dict[str, UserId]
    truth: dict[str, list[tuple[float, int]]]
    asked: list[tuple[float, str]] = field(default_factory=list)
    wallet_since: dict[UserId, float] = field(default_factory=dict)
    transports: list["BankTransport"] = field(default_factory=list)
    is_unreachable: bool = False

    @classmethod
    def build(cls, plan: DayPlan, clock: Clock, trace: Trace) -> "Town":
        """Found a bank whose users have one to three accounts each."""
        chance, currency, books = plan.chance("books"), find_currency("GBP"), Books()
        owners: dict[str, UserId] = {}
        for index in range(plan.users):
            user = UserId(f"user-{index:04}")
            for _ in range(chance.choice(ACCOUNTS_OF_A_USER)):
                number = str(1_000_000_001 + len(owners))
                money = chance.randrange(0, 50_000_000)
                books.add(SimulatedAccount(number, user, currency, booked=money))
                owners[number] = user
        options = BankOptions(latency=LATENCIES["quick"])
        bank = SimulatedBank(books, chance=plan.chance("bank"), clock=clock, options=options)
        bank.faults = _SeenFaults(clock.monotonic_s, trace=trace)
        truth = {number: [(0.0, one.booked)] for number, one in books.accounts.items()}
        town = cls(plan, bank, clock, currency, owners, truth)
        town.wallet_since = dict.fromkeys(town.users[::WALLET_EVERY], 0.0)
        return town

    @property
    def users(self) -> list[UserId]:
        """Return all users in order."""
        return sorted(set(self.owners.values()))

    def numbers_of(self, user: UserId) -> list[str]:
        """Return a user's accounts, the primary one first."""
        return [number for number, owner in self.owners.items() if owner == user]

    def move_one(self, chance: Random) -> UserId:
        """Let the balance of some account move, and return whose it is."""
        account = self.bank.books.move_one(chance)
        assert account is not None, "the bank has accounts"
        self.truth[account.number].append((self.clock.monotonic_s(), account.booked))
        return self.owners[account.number]

    def begin(self, incident: Incident) -> None:
        """Let something go wrong."""
        self.is_unreachable = incident.name == UNREACHABLE
        name = "closing" if incident.name == SLOW else "quick"
        self._options(latency=LATENCIES[name])
        self.bank.faults.clear()
        for fault in incident.faults:
            self.bank.faults.add(fault)

    def end(self) -> None:
        """Let everything go well again."""
        self.begin(Incident("well", 0, 0))

    def _options(self, **changed: Any) -> None:
        from dataclasses import replace

        self.bank.options = replace(self.bank.options, **changed)

    def was_true(self, number: str, balance: int, *, begin_s: float, end_s: float) -> bool:
        """Whether a balance was an account's at some moment between two."""
        history = self.truth[number]
        before = [minor for at_s, minor in history if at_s <= begin_s]
        since = [minor for at_s, minor in history if begin_s < at_s <= end_s]
        return balance in (*before[-1:], *since)

    def balance_at_end(self, number: str) -> int:
        """Return what is available on an account now."""
        return self.truth[number][-1][1]

    def moved_last_s(self, number: str) -> float:
        """Return when an account's balance moved last."""
        return self.truth[number][-1][0]


class BankTransport(InMemoryTransport):
    """One server's way to the bank, which may be out of reach for all of them; notes what is asked."""

    def __init__(self, town: Town) -> None:
        super().__init__(town.bank)
        self._town = town

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.is_refusing = self._town.is_unreachable
        if not self.is_refusing:
            number = request.url.path.split("/")[2]
            self._town.asked.append((self._town.clock.monotonic_s(), number))
        return await super().handle_async_request(request)
