"""The plain facts of a proof: what was looked at, what differs, what was done about it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from steelyard.core.ids import AccountId, TenantId, UserId


class Fault(StrEnum):
    """What a discrepancy is about."""

    BALANCE = "balance"
    HELD = "held"
    TOTAL_RECHARGED = "total_recharged"
    TOTAL_SPENT = "total_spent"
    SEQ = "seq"
    HEAD = "head"
    SUSPENSION = "suspension"
    HOLD = "hold"
    CACHE = "cache"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    GAP = "gap"
    STEP = "step"
    CHAIN = "chain"
    OPERATION = "operation"
    LOST = "lost"
    TRANSFER = "transfer"
    TAIL = "tail"
    HISTORY = "history"
    ORPHAN = "orphan"
    BOOK = "book"
    ANCHOR = "anchor"

    @property
    def is_of_history(self) -> bool:
        """Whether the changes themselves are in doubt, so that no balance may be made from them."""
        return self in _OF_HISTORY


_OF_HISTORY = frozenset(
    {
        Fault.GAP,
        Fault.STEP,
        Fault.CHAIN,
        Fault.OPERATION,
        Fault.LOST,
        Fault.TRANSFER,
        Fault.TAIL,
        Fault.HISTORY,
        Fault.ORPHAN,
        Fault.ANCHOR,
    }
)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A stored value that differs from the one derived from the changes; amounts in minor units.

    `account` is None for a whole book. `stored` and `actual` are given where two numbers differ;
    `seq` where one change is meant.
    """

    fault: Fault
    tenant: TenantId
    account: AccountId | None
    user: UserId | None
    currency: str | None
    digits: int
    sentence: str
    stored: int | None = None
    actual: int | None = None
    seq: int | None = None

    @property
    def difference(self) -> int:
        """Stored less actual; 0 where no two numbers are compared."""
        return 0 if self.stored is None or self.actual is None else self.stored - self.actual


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is stored of one account and what its changes say, seen at one moment; minor units.

    `kind` is None where there are changes of an account that does not exist. The `…_seq` fields name
    the first change at which a rule does not hold.
    """

    account: AccountId
    user: UserId | None
    kind: str | None
    currency: str | None
    digits: int
    posted: int
    held: int
    seq: int
    head: bytes
    total_recharged: int
    total_spent: int
    floor: int
    suspended: str | None
    actual_posted: int
    actual_held: int
    actual_seq: int
    actual_head: bytes
    actual_recharged: int
    actual_spent: int
    gap_seq: int | None = None
    step_seq: int | None = None
    chain_seq: int | None = None
    hold_seq: int | None = None
    operation_seq: int | None = None
    lost_seq: int | None = None
    """A change that another account's transfer names, and that is not there."""
    transfer_seq: int | None = None
    transfer_with: tuple[AccountId, ...] = ()
    """The other accounts of transfers whose two sides disagree."""
    checkpoint_seq: int | None = None
    checkpoint_problem: str | None = None


class FixOutcome(StrEnum):
    """What a fix did with an account."""

    FIXED = "fixed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Fixed:
    """An account a fix touched; amounts in minor units, `restored` counts changes brought back."""

    account: AccountId
    outcome: FixOutcome
    user: UserId | None
    currency: str
    digits: int
    posted_before: int
    held_before: int
    posted: int
    held: int
    seq: int
    restored: int


@dataclass(slots=True)
class Report:
    """The answer of a proof, with or without a fix.

    `checked`, `synced` and `fixed` count users, as the reference does; `details` is every discrepancy
    found, `errors` those that remain; `touched` is what a fix did.
    """

    tenant: TenantId
    checked: int = 0
    synced: int = 0
    fixed: int = 0
    accounts: int = 0
    errors: list[Discrepancy] = field(default_factory=list)
    details: list[Discrepancy] = field(default_factory=list)
    touched: list[Fixed] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether no discrepancy remains."""
        return not self.errors


Progress = Callable[[str, int, int], None]
"""Told how far long work is: the step, and how much of how much of it is done."""


def no_progress(step: str, done: int, total: int) -> None:
    """Tell nobody."""
