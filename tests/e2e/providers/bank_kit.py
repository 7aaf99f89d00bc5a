"""A simulated bank, served over real HTTP or in memory, with a client of one dialect in front of it."""

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

from steelyard.core.money import Currency
from steelyard.providers.contract import BalanceKind, ProviderContext, Target, TargetAccount
from steelyard.providers.t24.client import T24Client, open_client
from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import Fault, PlannedFault
from steelyard.providers.t24.simulator.in_memory import InMemoryTransport
from steelyard.providers.t24.simulator.serve import BankServer, serve_bank
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.settings import Settings

DIALECTS = ("bearer", "middleware", "iris")
KEY = "k3y-nobody-may-see"
GBP, JPY, KWD = Currency("GBP", 2), Currency("JPY", 0), Currency("KWD", 3)

OVERDRAWN = SimulatedAccount("2000000001", "700001", GBP, booked=-1_250, authorised=75, locked=500)
YEN = SimulatedAccount("2000000002", "700001", JPY, booked=150_000, uncleared=1_000)
LARGE = SimulatedAccount("2000000003", "700001", KWD, booked=2**53 - 1)
UNKNOWN = TargetAccount("2999999999", GBP)


@dataclass
class Scene:
    """A bank and who asks it."""

    bank: SimulatedBank
    client: T24Client
    server: BankServer | None
    memory: InMemoryTransport | None

    def fail(self, fault: Fault, **options: Any) -> None:
        """Let every request meet a fault."""
        self.bank.faults.clear()
        self.bank.faults.add(PlannedFault(fault, **options))

    async def refuse(self) -> None:
        """Let nobody in."""
        if self.server is not None:
            await self.server.refuse()
        if self.memory is not None:
            self.memory.is_refusing = True

    async def heal(self) -> None:
        """Let everything go well."""
        self.bank.faults.clear()
        if self.server is not None:
            await self.server.refuse()
            await self.server.accept()
        if self.memory is not None:
            self.memory.is_refusing = False

    def truth(self) -> dict[str, dict[BalanceKind, int]]:
        """What every balance is, by the bank's own books."""
        return {number: dict(one.truth()) for number, one in self.bank.books.accounts.items()}


def target_of(*accounts: SimulatedAccount) -> Target:
    """Ask for these accounts of one customer."""
    asked = tuple(TargetAccount(one.number, one.currency) for one in accounts)
    return Target(asked, customer=accounts[0].customer)


def settings_of(url: str, dialect: str, **more: Any) -> Settings:
    """Settings of a client."""
    return Settings.model_validate(
        {
            "t24_api_url": url,
            "t24_api_key": KEY,
            "t24_dialect": dialect,
            "t24_user": "steelyard" if dialect == "middleware" else None,
            **more,
        }
    )


@asynccontextmanager
async def opened(
    dialect: str = "bearer",
    *,
    in_memory: bool = False,
    options: BankOptions | None = None,
    tls: ssl.SSLContext | None = None,
    **more: Any,
) -> AsyncIterator[Scene]:
    """Open a bank with three accounts of one customer, and a client."""
    clock = SystemClock()
    books = Books({one.number: one for one in (OVERDRAWN, YEN, LARGE)})
    bank = SimulatedBank(
        books, chance=Random(7), clock=clock, options=options or BankOptions(key=KEY)
    )
    async with AsyncExitStack() as stack:
        memory = InMemoryTransport(bank) if in_memory else None
        server = None if in_memory else await stack.enter_async_context(serve_bank(bank, tls=tls))
        url = "http://bank.invalid" if server is None else server.url
        context = ProviderContext(settings_of(url, dialect, **more), clock)
        client = await stack.enter_async_context(open_client(context, transport=memory))
        yield Scene(bank, client, server, memory)
