"""Why an order was refused. A refusal writes nothing, not even its key."""

from collections.abc import Mapping

from steelyard.core.errors import Retry, SteelyardError
from steelyard.core.ids import AccountId


class InsufficientFunds(SteelyardError):
    """The account cannot cover it."""

    code = "insufficient_funds"

    def __init__(
        self, *, account: AccountId, available: int, floor: int, required: int, currency: str
    ) -> None:
        self.account, self.available, self.floor = account, available, floor
        self.required, self.currency = required, currency
        super().__init__(
            f"account {account} has {available} minor units of {currency} available above a floor of {floor}, "
            f"{required} are needed; nothing was changed"
        )

    @property
    def shortfall(self) -> int:
        """How much is missing, minor units."""
        return self.required - (self.available - self.floor)

    def fields(self) -> Mapping[str, object]:
        """Return `required`, `current` and `shortfall` in minor units."""
        return {
            "account": str(self.account),
            "required": self.required,
            "current": self.available,
            "shortfall": self.shortfall,
            "currency": self.currency,
        }


class AccountSuspended(SteelyardError):
    """The account takes no charges and no holds."""

    code = "account_suspended"

    def __init__(self, *, account: AccountId) -> None:
        self.account = account
        super().__init__(
            f"account {account} is suspended: it lies below its floor or its history is under review; "
            "nothing was changed, recharges still pass"
        )


class IdempotencyConflict(SteelyardError):
    """The key was used for a different order."""

    code = "idempotency_conflict"

    def __init__(self, *, key: str) -> None:
        self.key = key
        super().__init__(
            f"the idempotency key {key[:64]!r} was used for a different request; nothing was changed"
        )


class BalanceLimit(SteelyardError):
    """A balance would leave the range that every client reads exactly."""

    code = "balance_limit"

    def __init__(self, *, account: AccountId) -> None:
        self.account = account
        super().__init__(
            f"account {account} would go beyond 2^53 - 1 minor units; nothing was changed"
        )


class CurrencyMismatch(SteelyardError):
    """Two currencies where one is needed."""

    code = "currency_mismatch"

    def __init__(self, *, account: AccountId, other: str) -> None:
        self.account, self.other = account, other
        super().__init__(
            f"account {account} is not in the currency of {other}; nothing was changed"
        )


class StateConflict(SteelyardError):
    """What the order names is not in a state that allows it."""

    def __init__(self, *, what: str, why: str) -> None:
        self.what, self.why = what, why
        super().__init__(f"{what} {why}; nothing was changed")


class HoldNotOpen(StateConflict):
    """The hold was captured, released or has expired."""

    code = "hold_not_open"


class NotReversible(StateConflict):
    """Changes of this kind are not reversed."""

    code = "not_reversible"


class AlreadyReversed(StateConflict):
    """All of it was taken back before."""

    code = "already_reversed"


class TopupAlreadyProcessed(StateConflict):
    """The top-up was decided the other way."""

    code = "topup_already_processed"


class SameAccount(StateConflict):
    """A transfer from an account to itself."""

    code = "same_account"


class CaptureExceedsHold(StateConflict):
    """More than the hold set aside."""

    code = "capture_exceeds_hold"


class ReversalExceedsTransaction(StateConflict):
    """More than is left to reverse."""

    code = "reversal_exceeds_transaction"


class RequesterCannotApprove(SteelyardError):
    """Whoever asked for a top-up does not decide on it."""

    code = "requester_cannot_approve"

    def __init__(self, *, topup: str) -> None:
        self.topup = topup
        super().__init__(
            f"top-up {topup} must be decided by someone other than its requester; nothing was changed"
        )


class LedgerFailure(SteelyardError):
    """The ledger could not decide this order: a bug or a damaged database. Nothing was written for it."""

    code = "internal_error"
    retry = Retry.LATER

    def __init__(self, *, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the ledger could not decide this order ({reason}); nothing was written for it"
        )
