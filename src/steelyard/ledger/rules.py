"""The ledger's rules as a plain model: no database, no clock, no batches.

The SQL function decides in production (`post_batch.sql`). This is what it promises, small enough to
read; a property test runs both on the same histories. Section numbers are those of the function.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime

from steelyard.core.ids import AccountId, TenantId
from steelyard.core.money import LARGEST_MINOR
from steelyard.ledger.model import Kind, Order

SPENDING = (Kind.CHARGE, Kind.BOOKING, Kind.CAPTURE)
ADDING = (Kind.RECHARGE, Kind.TOPUP)
HOLD_ENDS = (Kind.CAPTURE, Kind.RELEASE, Kind.EXPIRE)


@dataclass(slots=True)
class Standing:
    """One held account."""

    currency: str
    posted: int = 0
    held: int = 0
    floor: int = 0
    seq: int = 0
    recharged: int = 0
    spent: int = 0
    suspended: str | None = None

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.posted - self.held


@dataclass(frozen=True, slots=True)
class Step:
    """What an order does to its account: signed steps, minor units."""

    posted: int = 0
    held: int = 0
    recharged: int = 0
    spent: int = 0
    is_guarded: bool = False
    """A suspended account takes none of these."""
    may_fall_below: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`posted`, `replayed` or a refusal; where the account stood after it."""

    outcome: str
    seq: int | None = None
    amount: int | None = None
    balance_after: int | None = None
    held_after: int | None = None


@dataclass(slots=True)
class Hold:
    """Money set aside."""

    amount: int
    is_open: bool
    expires_at: datetime | None


@dataclass(slots=True)
class Past:
    """A change that can be asked about later."""

    kind: Kind
    amount: int
    counter: AccountId | None
    left: int


class Refused(Exception):
    """Carries the outcome word."""


@dataclass(slots=True)
class LedgerModel:
    """All accounts of all tenants, and every key that took effect."""

    accounts: dict[tuple[TenantId, AccountId], Standing] = field(default_factory=dict)
    keys: dict[tuple[TenantId, str], tuple[bytes, Verdict]] = field(default_factory=dict)
    holds: dict[tuple[TenantId, AccountId, int], Hold] = field(default_factory=dict)
    past: dict[tuple[TenantId, AccountId, int], Past] = field(default_factory=dict)
    known: dict[tuple[TenantId, AccountId], int] = field(default_factory=dict)

    def post_batch(
        self, orders: list[tuple[Order, datetime | None]], *, now: datetime
    ) -> list[Verdict]:
        """Decide orders with their holds' ends, one after the other.

        An order can name only holds and changes that were there before its batch: nobody knows of others.
        """
        self.known = {place: account.seq for place, account in self.accounts.items()}
        return [self.post(order, now=now, expires_at=expires_at) for order, expires_at in orders]

    def post(self, order: Order, *, now: datetime, expires_at: datetime | None = None) -> Verdict:
        """Decide one order and apply it, or refuse it and leave everything as it was."""
        known = self.keys.get((order.tenant, order.key))
        if known is not None:
            if known[0] != order.body_hash():
                return Verdict("idempotency_conflict")
            return replace(known[1], outcome="replayed")
        account = self.accounts.get((order.tenant, order.account))
        if account is None:
            return Verdict("account_not_found")
        try:
            step, counter = self._decide(order, account, now)
        except Refused as refused:
            return Verdict(str(refused), balance_after=account.posted, held_after=account.held)
        self._apply(order, account, step, counter=counter, expires_at=expires_at)
        verdict = Verdict("posted", account.seq, step.posted, account.posted, account.held)
        self.keys[order.tenant, order.key] = (order.body_hash(), verdict)
        return verdict

    def _decide(
        self, order: Order, account: Standing, now: datetime
    ) -> tuple[Step, AccountId | None]:
        check_amount(order)
        step, counter = self._step_of(order, now)
        if counter is not None:
            self._check_counter(order, account, step, counter)
        check_step(account, step)
        return step, counter

    def _step_of(self, order: Order, now: datetime) -> tuple[Step, AccountId | None]:
        """3a: what would it move?"""
        amount = order.amount or 0
        if order.kind in (Kind.CHARGE, Kind.BOOKING):
            return Step(posted=-amount, spent=amount, is_guarded=True), None
        if order.kind in ADDING:
            return Step(posted=amount, recharged=amount), None
        if order.kind is Kind.HOLD:
            return Step(held=amount, is_guarded=True), None
        if order.kind is Kind.TRANSFER:
            return Step(posted=-amount, is_guarded=True), order.counter or AccountId(0)
        if order.kind is Kind.ADJUSTMENT:
            return Step(posted=amount, may_fall_below=True), None
        if order.kind is Kind.REFUND and order.target is None:
            return Step(posted=amount, spent=-amount), None
        if order.kind in HOLD_ENDS:
            return self._step_of_hold_end(order, now), None
        return self._step_of_reversal(order)

    def _step_of_hold_end(self, order: Order, now: datetime) -> Step:
        hold = self.holds.get((order.tenant, order.account, order.target or 0))
        if hold is None or not self._is_known(order):
            raise Refused("hold_not_found")
        if not hold.is_open:
            raise Refused("hold_not_open")
        if order.kind is Kind.EXPIRE and (hold.expires_at is None or hold.expires_at > now):
            raise Refused("hold_not_due")
        if order.kind is not Kind.CAPTURE:
            return Step(held=-hold.amount)
        captured = hold.amount if order.amount is None else order.amount
        if captured > hold.amount:
            raise Refused("capture_exceeds_hold")
        return Step(posted=-captured, held=-hold.amount, spent=captured)

    def _step_of_reversal(self, order: Order) -> tuple[Step, AccountId | None]:
        past = self.past.get((order.tenant, order.account, order.target or 0))
        if past is None or not self._is_known(order):
            raise Refused("transaction_not_found")
        is_sent_transfer = past.kind is Kind.TRANSFER and past.amount < 0
        is_more_than_spending = past.kind in (*ADDING, Kind.ADJUSTMENT) or is_sent_transfer
        if past.kind not in SPENDING and not (
            order.kind is Kind.REVERSAL and is_more_than_spending
        ):
            raise Refused("not_reversible")
        if past.left <= 0:
            raise Refused("already_reversed")
        if order.amount is not None and order.amount > past.left:
            raise Refused("reversal_exceeds_transaction")
        amount = past.left if order.amount is None else order.amount
        step = Step(
            posted=amount if past.amount < 0 else -amount,
            spent=-amount if past.kind in SPENDING else 0,
            recharged=-amount if past.kind in ADDING else 0,
            may_fall_below=order.forced,
        )
        return step, past.counter if is_sent_transfer else None

    def _is_known(self, order: Order) -> bool:
        return (order.target or 0) <= self.known.get((order.tenant, order.account), 2**62)

    def _check_counter(
        self, order: Order, account: Standing, step: Step, counter: AccountId
    ) -> None:
        """3b: the other account of a transfer."""
        other = self.accounts.get((order.tenant, counter))
        if other is None:
            raise Refused("counter_account_not_found")
        if counter == order.account:
            raise Refused("same_account")
        if other.currency != account.currency:
            raise Refused("currency_mismatch")
        if abs(other.posted - step.posted) > LARGEST_MINOR:
            raise Refused("balance_limit")
        if (
            step.posted > 0
            and not step.may_fall_below
            and other.available - step.posted < other.floor
        ):
            raise Refused("counter_insufficient_funds")

    def _apply(
        self,
        order: Order,
        account: Standing,
        step: Step,
        *,
        counter: AccountId | None,
        expires_at: datetime | None,
    ) -> None:
        """3d: the next step of each account it touches."""
        move(account, step)
        place = (order.tenant, order.account, account.seq)
        if order.kind is Kind.HOLD:
            self.holds[place] = Hold(step.held, True, expires_at)
        elif order.kind in HOLD_ENDS:
            self.holds[order.tenant, order.account, order.target or 0].is_open = False
        elif order.kind in (Kind.REFUND, Kind.REVERSAL) and order.target is not None:
            self.past[order.tenant, order.account, order.target].left -= abs(step.posted)
        self.past[place] = Past(order.kind, step.posted, counter, abs(step.posted))
        if counter is not None:
            other = self.accounts[order.tenant, counter]
            move(other, Step(posted=-step.posted))
            received = Past(order.kind, -step.posted, order.account, abs(step.posted))
            self.past[order.tenant, counter, other.seq] = received


def check_amount(order: Order) -> None:
    """Refuse amounts that are none, out of range, or of the wrong sign."""
    if order.amount is None:
        if order.kind not in (*HOLD_ENDS, Kind.REVERSAL):
            raise Refused("amount_invalid")
    elif not 0 < abs(order.amount) <= LARGEST_MINOR or (
        order.amount < 0 and order.kind is not Kind.ADJUSTMENT
    ):
        raise Refused("amount_invalid")


def check_step(account: Standing, step: Step) -> None:
    """3c: may it? The line that no overdraft passes."""
    available_after = account.available + step.posted - step.held
    if step.is_guarded and account.suspended is not None:
        raise Refused("account_suspended")
    if (
        available_after < account.available
        and not step.may_fall_below
        and available_after < account.floor
    ):
        raise Refused("insufficient_funds")
    if abs(account.posted + step.posted) > LARGEST_MINOR:
        raise Refused("balance_limit")


def move(account: Standing, step: Step) -> None:
    """Take one step; below the floor suspends, at or above it ends a suspension for that reason."""
    account.posted += step.posted
    account.held += step.held
    account.recharged += step.recharged
    account.spent += step.spent
    account.seq += 1
    if account.available < account.floor:
        account.suspended = account.suspended or "below_floor"
    elif account.suspended == "below_floor":
        account.suspended = None
