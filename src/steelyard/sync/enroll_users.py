"""Users with accounts at the core bank, many at once: made, changed, and synced from now on or no more."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from steelyard.access.model import UserStatus
from steelyard.access.users import NewUser, upsert_users
from steelyard.balances.store import list_books, open_book
from steelyard.core.ids import AccountId, UserId
from steelyard.core.money import Currency
from steelyard.mirror import store as mirror
from steelyard.mirror.apply_readings import apply_readings
from steelyard.mirror.model import ShownBalance
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.database import UnitOfWork
from steelyard.sync import store
from steelyard.sync.enroll import Enrollment
from steelyard.sync.enrolment import Counts, EnrolledUser, GivenUser, Outcome, RefusedItem
from steelyard.sync.enrolment_rules import (
    Known,
    Memory,
    UserPlan,
    claim,
    numbers_of,
    plan_users,
    with_claims,
)
from steelyard.sync.rules import COST_MAX, first_due
from steelyard.sync.store.enrolment import drop_targets, lock_targets

NO_LONGER_SYNCED = {
    "code": "not_synced",
    "message": "the user was told to be inactive, a WALLET user, or without an active account there",
}
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a balance was true of which nobody says when: it is shown, and never called fresh."""
TOLD = "told"
"""The kind of a balance that came with a user and not from the bank."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What became of many users. `events` are to be published after the commit."""

    plans: list[UserPlan]
    ids: Mapping[tuple[UserId, str], AccountId]
    refused: list[RefusedItem]
    events: list[BalanceEvent]

    @property
    def users(self) -> list[EnrolledUser]:
        """What became of each user, in the order they came first."""
        return [_told(plan, self.ids) for plan in self.plans]

    @property
    def status_changed(self) -> list[UserId]:
        """Users there were whose tokens count otherwise now."""
        return [
            plan.wanted.user
            for plan in self.plans
            if plan.before is not None and plan.before.is_active != plan.wanted.is_active
        ]


async def enroll_users(
    uow: UnitOfWork,
    users: Sequence[GivenUser],
    enrollment: Enrollment,
    *,
    default: Currency | None,
    now: datetime,
) -> Enrolled:
    """Write what items say of users and their accounts; who cannot be taken is refused, the others are written.

    Repeating it changes nothing more. Who is synced no more loses its target at once; who is from now on is due first
    somewhere within the interval. Accounts that are not named stay as they are. Waits for others who enroll in the
    tenant; then locks targets, users and accounts that change.

    Args:
        uow: Open unit of work; the caller commits and publishes the events.
        users: Items that agree with each other (`enrolment_rules.remember`); at most some thousands.
        enrollment: Where, and how often they are due.
        default: The currency of new accounts that name none; None: the one the tenant keeps its only book in.
        now: UTC.
    """
    await mirror.lock_enrolment(uow)
    plans, refused = await plan_enrolment(uow, users, enrollment, default=default)
    await _write_targets(uow, plans, enrollment, now=now)
    await _write_customers(uow, plans, now=now)
    ids = await _write_accounts(uow, plans, enrollment.provider, now=now)
    readings = [
        ShownBalance(
            ids[plan.wanted.user, number],
            told.minor,
            min(told.as_of or LONG_AGO, now),
            {TOLD: told.minor},
        )
        for plan in plans
        for number, told in plan.readings.items()
    ]
    events = await apply_readings(uow, readings, now=now)
    return Enrolled(plans, ids, refused, events)


async def plan_enrolment(
    uow: UnitOfWork,
    users: Sequence[GivenUser],
    enrollment: Enrollment,
    *,
    default: Currency | None,
    memory: Memory | None = None,
) -> tuple[list[UserPlan], list[RefusedItem]]:
    """Say what `enroll_users` would do, by what is there now. Writes and locks nothing.

    With a memory, numbers that calls before it would have given away are taken.
    """
    await mirror.plan_by_averages(uow)
    if default is None:
        books = await list_books(uow)
        default = books[0] if len(books) == 1 else None
    ids = sorted({user.id for user in users})
    numbers = numbers_of(users)
    holders = await mirror.load_holders(uow, numbers, enrollment.provider)
    known = Known(
        await mirror.load_customers(uow, ids),
        await mirror.load_known_accounts(uow, ids, enrollment.provider),
        holders if memory is None else with_claims(memory, numbers, holders),
    )
    plans, refused = plan_users(users, known, default)
    if memory is not None:
        claim(memory, plans)
    return plans, refused


def counts_of(plans: Sequence[UserPlan], *, counted: Collection[UserId] = ()) -> Counts:
    """Count what plans write; users who were counted before count by their accounts alone."""
    outcomes = [plan.outcome for plan in plans if plan.wanted.user not in counted]
    accounts = [plan.outcome_of(number) for plan in plans for number in plan.given]
    return Counts(
        outcomes.count(Outcome.CREATED),
        outcomes.count(Outcome.UPDATED),
        outcomes.count(Outcome.UNCHANGED),
        accounts.count(Outcome.CREATED),
        accounts.count(Outcome.UPDATED),
        accounts.count(Outcome.UNCHANGED),
        sum(plan.is_synced and not plan.was_synced for plan in plans),
        sum(plan.was_synced and not plan.is_synced for plan in plans),
    )


def _told(plan: UserPlan, ids: Mapping[tuple[UserId, str], AccountId]) -> EnrolledUser:
    user = plan.wanted.user
    accounts = tuple(
        (ids.get((user, number)) or plan.accounts[number].account, plan.outcome_of(number))
        for number in plan.given
    )
    return EnrolledUser(user, plan.outcome, accounts)


async def _write_customers(uow: UnitOfWork, plans: Sequence[UserPlan], *, now: datetime) -> None:
    users, customers = [], []
    for plan in plans:
        wanted, before = plan.wanted, plan.before
        status = UserStatus.ACTIVE if wanted.is_active else UserStatus.INACTIVE
        if before is None or (before.is_active, before.display_name) != (
            wanted.is_active,
            wanted.display_name,
        ):
            users.append(NewUser(wanted.user, wanted.display_name, status))
        if before is None or (before.context, before.customer_number) != (
            wanted.context,
            wanted.customer_number,
        ):
            customers.append(wanted)
    if users:
        await upsert_users(uow, users, now=now)
    if customers:
        await mirror.set_customers(uow, sorted(customers, key=lambda one: one.user))


async def _write_accounts(
    uow: UnitOfWork, plans: Sequence[UserPlan], provider: str, *, now: datetime
) -> dict[tuple[UserId, str], AccountId]:
    """Open and change accounts; return the ids of all the plans speak of."""
    ids = {
        (plan.wanted.user, number): one.account
        for plan in plans
        for number, one in plan.accounts.items()
        if one.account is not None
    }
    changed = [one for plan in plans for one in plan.changed_accounts]
    if not changed:
        return ids
    for currency in sorted({one.currency for one in changed}, key=lambda one: one.code):
        await open_book(uow, currency, now=now)
    written = await mirror.write_accounts(uow, changed, provider, now=now)
    for one, account in zip(changed, written, strict=True):
        ids[one.user, one.number] = account
    return ids


async def _write_targets(
    uow: UnitOfWork, plans: Sequence[UserPlan], enrollment: Enrollment, *, now: datetime
) -> None:
    """Make, change and forget targets. Before accounts, as workers write, all of them locked in one order.

    Who has accounts and is not synced yet is noted, to be found when that changes.
    """
    gone = sorted(
        plan.wanted.user
        for plan in plans
        if not plan.is_synced and (plan.was_synced or (plan.before is None and plan.accounts))
    )
    told = {plan.wanted.user: plan.active_count for plan in plans if plan.tells_target}
    kind, provider = enrollment.kind, enrollment.provider
    if gone or told:
        await lock_targets(uow, kind, [*gone, *told])
    if gone:
        await drop_targets(uow, kind, provider, gone, reason=NO_LONGER_SYNCED, now=now)
    if told:
        targets = [
            (user, min(count, COST_MAX), first_due(uow.tenant, user, enrollment.interval, now=now))
            for user, count in told.items()
        ]
        await store.add_targets(uow, kind, provider, targets)
