"""What a provider is: a manifest that declares it, and calls that each send one request."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from steelyard.core.clock import Clock
from steelyard.core.money import Currency, Money
from steelyard.providers.errors import ProviderError
from steelyard.runtime.settings import Settings

API_VERSION = 1
"""Version of this contract; a manifest names the one that it was written for."""


class Capability(StrEnum):
    """What a provider can be asked for."""

    BALANCES = "balances"


class BalanceKind(StrEnum):
    """Which of an account's balances a number is. All that are reported are kept."""

    AVAILABLE = "available"
    """What the provider itself calls available."""
    LEDGER = "ledger"
    """Booked: the total of all posted entries."""
    WORKING = "working"
    """Real time, with authorised and, on customers' accounts, unauthorised debits."""
    CLEARED = "cleared"
    """Without funds that are not cleared."""
    USEABLE = "useable"
    """What can be spent."""
    ONLINE_ACTUAL = "online_actual"
    """Booked in real time, as the online books have it."""
    LOCKED = "locked"
    """Set aside by the provider."""


class AccountIdentity(StrEnum):
    """How the same account is known again."""

    NUMBER = "number"
    """By its number, which never becomes another account's."""


class AmountEncoding(StrEnum):
    """How an amount stands in an answer."""

    STRING = "string"
    NUMBER = "number"


class AmountSign(StrEnum):
    """What the sign of a reported balance means."""

    NEGATIVE_IS_OVERDRAWN = "negative_is_overdrawn"


class BalanceTime(StrEnum):
    """Which moment a balance is true at."""

    WHEN_ASKED = "when_asked"
    """The provider tells no time; the moment the request was sent."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a provider bears, for all processes of an installation together.

    Args:
        requests_per_s: Requests a second, over 0.
        in_flight: Requests that may wait for an answer at once, at least 1.
        page_rows: Most rows of one answer, where answers come in pages.
    """

    requests_per_s: float
    in_flight: int
    page_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a provider declares of itself; the conformance suite holds it to that.

    Args:
        name: Lower-case word; providers of third parties are `vendor.name`.
        title: As people call it.
        api_version: `API_VERSION` of the contract it was written for.
        capabilities: What it can be asked for.
        balance_kinds: Every kind it may report.
        identity: How an account is known again.
        amount_encodings: Every form an amount may have.
        amount_sign: What a sign means.
        balance_time: Which moment a balance is true at.
        limits: What it bears.
    """

    name: str
    title: str
    api_version: int
    capabilities: frozenset[Capability]
    balance_kinds: frozenset[BalanceKind]
    identity: AccountIdentity
    amount_encodings: frozenset[AmountEncoding]
    amount_sign: AmountSign
    balance_time: BalanceTime
    limits: Limits


@dataclass(frozen=True, slots=True)
class TargetAccount:
    """An account as the provider names it, with the currency that we keep it in."""

    number: str
    currency: Currency

    def __repr__(self) -> str:
        """Hide the number: bank account numbers are in no log."""
        return f"TargetAccount(…{self.number[-2:]}, {self.currency.code})"


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask for: the accounts of one user at one provider.

    Args:
        accounts: In the order they matter; the first is asked for first. No number twice.
        customer: The provider's number of the user, where it is known; some answer for all accounts at once.
        position: Where to go on, from a reading's `rest`; never made by hand.
    """

    accounts: tuple[TargetAccount, ...]
    customer: str | None = field(default=None, repr=False)
    position: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReportedBalance:
    """One balance as a provider reports it.

    Args:
        kind: Which of the account's balances it is.
        money: Exact; it never was a float.
        as_of: UTC; the moment it was true at (`Manifest.balance_time`).
    """

    kind: BalanceKind
    money: Money
    as_of: datetime


@dataclass(frozen=True, slots=True)
class AccountReading:
    """All balances that were reported of one account: at least one, no kind twice."""

    account: TargetAccount
    balances: tuple[ReportedBalance, ...]

    def find(self, *preferred: BalanceKind) -> ReportedBalance | None:
        """Return the balance of the first of these kinds that was reported."""
        kinds = {one.kind: one for one in self.balances}
        return next((kinds[kind] for kind in preferred if kind in kinds), None)


@dataclass(frozen=True, slots=True)
class AccountProblem:
    """Why one account has no reading; the others of the same answer are good."""

    account: TargetAccount
    error: ProviderError


@dataclass(frozen=True, slots=True)
class BalanceReading:
    """What one request brought.

    Every account of the target is in exactly one of the three.

    Args:
        readings: Accounts with balances.
        problems: Accounts without: `ProviderNotFound` where the provider does not know it, `ProviderRefusedRequest`
            where it refused to tell of it, `ProviderMalformed` where its values cannot be believed.
        rest: What is still to ask for, with another call; None when all is told.
        server_s: Seconds the provider itself says that it took, where it does.
    """

    readings: tuple[AccountReading, ...]
    problems: tuple[AccountProblem, ...] = ()
    rest: Target | None = None
    server_s: float | None = None


class Provider(Protocol):
    """An open provider. One event loop; many calls at once are fine."""

    @property
    def manifest(self) -> Manifest:
        """What it declares of itself."""
        ...

    async def fetch_balances(self, target: Target, *, deadline_s: float) -> BalanceReading:
        """Send one request, and return what it brought. It writes nothing.

        One call is one request, so that a budget counts calls: take a permit, call, and go on with
        `reading.rest` until it is None. The same target may be asked again at any time.

        Args:
            target: At least one account.
            deadline_s: Seconds for everything: the way there, waiting, and the whole answer. Over 0.
        Raises:
            ProviderError: No answer that can be used; its type says what must happen next. Nothing else is
                raised but cancellation.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProviderContext:
    """What a provider is opened with."""

    settings: Settings
    clock: Clock


class OpenProvider(Protocol):
    """Opens a provider from settings; leaving the context closes its connections."""

    def __call__(self, context: ProviderContext, /) -> AbstractAsyncContextManager[Provider]: ...


@dataclass(frozen=True, slots=True)
class ProviderPlugin:
    """What an entry point of the group `steelyard.providers` names.

    `open` imports what it needs when it is called, so that a manifest is read without heavy code.
    """

    manifest: Manifest
    open: OpenProvider
