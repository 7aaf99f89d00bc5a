"""What is leased, asked for, allowed and told."""

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import IntEnum, StrEnum
from typing import Final

from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.core.money import Currency
from steelyard.jobs.model import State as State  # noqa: PLC0414 - a run's states are told by both
from steelyard.mirror.model import ShownBalance

BALANCES: Final = "update-balances"
"""The kind of target and run that brings a user's balances at the core bank."""


class Priority(IntEnum):
    """How soon; larger is sooner."""

    BACKGROUND = 0
    WAITED = 5
    """A login that nobody waits for any more: before the background."""
    MANUAL = 30
    URGENT = 50
    LOGIN = 100


class Circuit(StrEnum):
    """Whether a source is asked: closed yes, open no, half-open once to see."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Lease:
    """A target this worker has until `until`. `token` is the fencing number: a later lease has a larger one."""

    tenant: TenantId
    provider: str
    kind: str
    subject: UserId
    token: int
    until: datetime
    priority: int
    cost: int
    """Requests a sync of it takes, as far as is known; one was granted with the lease."""
    attempts: int
    """Leases of this run that count, this one included."""
    run: int
    last_login_at: datetime | None = None
    read: frozenset[AccountId] = frozenset()
    """Accounts this run has read already, since it was asked for last."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed: a stable code, a sentence, and what it means for what comes next."""

    code: str
    message: str
    may_retry: bool
    tries_max: int | None = None
    counts_as_outage: bool = False
    blocked_for_s: float | None = None
    """The source asked everybody to wait this long."""
    is_unfinished: bool = False
    """Nothing went wrong: there is more to read than was granted."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one attempt brought: balances, accounts that have none and why, or a failure of the whole."""

    lease: Lease
    balances: tuple[ShownBalance, ...] = ()
    problems: tuple[Failure, ...] = ()
    failure: Failure | None = None
    requests: int = 0
    is_ineligible: bool = False
    """The user is no longer to be synced: nothing was asked for."""

    @property
    def read(self) -> tuple[AccountId, ...]:
        """The accounts it brought a balance of."""
        return tuple(balance.account for balance in self.balances)


@dataclass(frozen=True, slots=True)
class Finish:
    """What is written at a lease's end. `rest_at`: its next moment by itself, whatever became of this one."""

    lease: Lease
    state: State
    due_at: datetime
    cost: int
    word: str
    """Last result, as shown with the target: `ok` or an error code."""
    result: dict[str, object] | None = None
    error: dict[str, object] | None = None
    is_progress: bool = False
    """The attempt does not count: it read something, and there is more."""
    read: tuple[AccountId, ...] = ()
    rest_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What one source allows one tenant, as of `refilled_at`."""

    rate_per_s: float
    burst: float
    tokens: float
    refilled_at: datetime
    in_flight_max: int
    daily_on: date
    login_share: float = 0.2
    """Part of the burst, of the slots and of the day that only logins may use."""
    daily_limit: int | None = None
    daily_used: int = 0
    blocked_until: datetime | None = None
    circuit: Circuit = Circuit.CLOSED
    circuit_until: datetime | None = None
    circuit_failures: int = 0
    circuit_openings: int = 0
    paused_at: datetime | None = None
    """Since then nothing is granted, until somebody lets it go on."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Requests that may be sent now: by logins, and by all others (included in the first number)."""

    login: int
    background: int


@dataclass(frozen=True, slots=True)
class Lane:
    """One tenant at one source, and what waits there."""

    tenant: TenantId
    provider: str
    priority_due: int = 0
    background_due: int = 0
    in_flight: int = 0


class Reason(StrEnum):
    """Why a user is not synced, or has no fresh balance."""

    UNKNOWN_USER = "unknown_user"
    INACTIVE = "inactive"
    WALLET = "wallet"
    NO_ACCOUNTS = "no_accounts"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    OFF = "sync_off"
    TIMEOUT = "timeout"
    FAILED = "sync_failed"


@dataclass(frozen=True, slots=True)
class Raised:
    """What became of asking for a sync: the run that will serve it, or why there is none."""

    run: int | None
    is_new: bool = False
    """False where one was queued already: the requests share its run."""
    reason: Reason | None = None
    is_locked: bool = False
    """Somebody else has the target locked: nothing was written, ask again."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands, its error's code if it failed, and the accounts it has read for those who wait."""

    run: int
    state: State
    error_code: str | None = None
    read: frozenset[AccountId] = frozenset()


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Answer to a login. `ok`: `balance` was read after the login; else it is the stored one, or None.

    `balance` in minor units of `currency`: available, of the user's primary mirrored account.
    """

    ok: bool
    balance: int | None = None
    as_of: datetime | None = None
    currency: Currency | None = None
    account: AccountId | None = None
    queued: bool = False
    """A sync is under way and goes on."""
    run_id: int | None = None
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """Due targets of the whole installation, counted up to a bound, and whether somebody is at work."""

    priority: int
    background: int
    processing: bool
    lanes: tuple[Lane, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Pause:
    """Since when, by whom and why nothing is asked for."""

    at: datetime | None
    by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class DueTier:
    """What is due of one tier: `login`, `asked`, or of the period `active`, `today`, `rest`."""

    tier: str
    due: int
    oldest_due_at: datetime
    """How long the oldest waits is the figure to watch; a queue's length says little."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One tenant at one source, as an operator sees it."""

    tenant: TenantId
    provider: str
    budget: Budget
    in_flight: int
    tiers: tuple[DueTier, ...]
    is_tiered: bool
    """The source cannot bear all targets at the interval: activity decides how often each is due."""
    paused_users: int
    pause: Pause | None = None


@dataclass(frozen=True, slots=True)
class TargetState:
    """How one user's target stands."""

    due_at: datetime
    priority: int
    leased_by: str | None
    lease_until: datetime | None
    run: int | None
    again_run: int | None
    last_result: str | None
    last_success_at: datetime | None
    last_login_at: datetime | None
    pause: Pause | None


@dataclass(frozen=True, slots=True)
class AccountState:
    """A mirrored account. `as_of`: when its balance changed last; `read_at`: when it was read last."""

    account: AccountId
    ending: str
    account_type: str | None
    is_active: bool
    is_primary: bool
    currency: Currency
    balance: int
    as_of: datetime
    read_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run, as one line."""

    run: int
    state: State
    priority: int
    attempts: int
    created_at: datetime
    finished_at: datetime | None
    error_code: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SyncedUser:
    """Everything there is to know of one user's syncs at one source. `reason`: why nothing is asked for, if so."""

    user: UserId
    reason: Reason | None
    target: TargetState | None
    accounts: tuple[AccountState, ...]
    runs: tuple[RunLine, ...]
