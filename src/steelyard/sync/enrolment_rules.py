"""Decides what of an import is taken and what is to be written. Plain functions of plain values."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from steelyard.core.errors import InvalidInput
from steelyard.core.ids import UserId
from steelyard.core.money import Currency, Money
from steelyard.mirror.model import Customer, KnownAccount
from steelyard.sync.enrolment import (
    MOBILE_BANKING,
    WALLET,
    GivenAccount,
    GivenUser,
    ItemRefused,
    Outcome,
    Refusal,
    RefusedItem,
)
from steelyard.sync.enrolment_fields import ACCOUNTS_MAX

Place = tuple[UserId, str]
"""A user and an account's number."""


class Memory(Protocol):
    """Keeps words by keys for as long as one import takes."""

    def get(self, key: str) -> str | None:
        """Return what is kept under the key."""
        ...

    def put(self, key: str, value: str) -> None:
        """Keep a value instead of an earlier one."""
        ...


@dataclass(slots=True)
class DictMemory:
    """For what fits into memory."""

    kept: dict[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str | None:
        """Return what is kept under the key."""
        return self.kept.get(key)

    def put(self, key: str, value: str) -> None:
        """Keep a value."""
        self.kept[key] = value


@dataclass(frozen=True, slots=True)
class Known:
    """What is there of the users and numbers that items speak of."""

    customers: Mapping[UserId, Customer]
    accounts: Mapping[UserId, Mapping[str, KnownAccount]]
    """By number."""
    holders: Mapping[str, frozenset[UserId]]
    """All users who have an account of a number."""


@dataclass(frozen=True, slots=True)
class Told:
    """A balance that came with an account: minor units, and when it was true, if that was said."""

    minor: int
    as_of: datetime | None


@dataclass(slots=True)
class UserPlan:
    """What is to be written of one user. `before` None: it is new."""

    wanted: Customer
    before: Customer | None
    before_accounts: Mapping[str, KnownAccount]
    accounts: dict[str, KnownAccount]
    """All of the user's accounts as they will be, by number."""
    given: list[str] = field(default_factory=list)
    """Numbers of the accounts the items speak of, in order."""
    readings: dict[str, Told] = field(default_factory=dict)
    """Balances for accounts that were never read."""

    @property
    def outcome(self) -> Outcome:
        """What becomes of the user."""
        if self.before is None:
            return Outcome.CREATED
        return Outcome.UNCHANGED if self.before == self.wanted else Outcome.UPDATED

    def outcome_of(self, number: str) -> Outcome:
        """Return what becomes of one account."""
        before = self.before_accounts.get(number)
        if before is None:
            return Outcome.CREATED
        is_same = before == self.accounts[number] and number not in self.readings
        return Outcome.UNCHANGED if is_same else Outcome.UPDATED

    @property
    def changed_accounts(self) -> list[KnownAccount]:
        """Accounts to be opened or changed."""
        return [
            one for number, one in self.accounts.items() if self.before_accounts.get(number) != one
        ]

    @property
    def active_count(self) -> int:
        """How many of the accounts are active; what a first sync costs."""
        return sum(one.is_active for one in self.accounts.values())

    @property
    def is_synced(self) -> bool:
        """Whether the user is to have a target."""
        return _is_synced(self.wanted, self.accounts)

    @property
    def was_synced(self) -> bool:
        """Whether the user was to have one before."""
        return self.before is not None and _is_synced(self.before, self.before_accounts)

    @property
    def tells_target(self) -> bool:
        """Whether a target is to be made, or told of another number of accounts."""
        if not self.is_synced:
            return False
        before = sum(one.is_active for one in self.before_accounts.values())
        return not self.was_synced or before != self.active_count


def _is_synced(customer: Customer, accounts: Mapping[str, KnownAccount]) -> bool:
    is_asked_for = customer.is_active and customer.context == MOBILE_BANKING
    return is_asked_for and any(one.is_active for one in accounts.values())


def remember(memory: Memory, user: GivenUser) -> bool:
    """Take an item into account, if it agrees with those before it.

    Returns:
        Whether it is the first of its user.
    Raises:
        ItemRefused: It repeats or contradicts an earlier item; nothing of it is remembered.
    """
    place = f"user\0{user.id}"
    before = memory.get(place)
    told = _merged(before, user)
    kept: dict[str, str] = {}
    for account in user.accounts:
        if account.is_primary:
            if told[_PRIMARY] is not None:
                raise ItemRefused(
                    "isPrimary", Refusal.TWO_PRIMARIES, f"line {told[_PRIMARY]} names another one"
                )
            told[_PRIMARY] = user.line
        key = f"account\0{user.id}\0{account.number}"
        earlier = kept.get(key) or memory.get(key)
        if earlier is not None:
            raise _same_as(earlier)
        kept[key] = str(user.line)
    if not user.accounts:
        if told[_WITHOUT] is not None:
            raise _same_as(told[_WITHOUT])
        told[_WITHOUT] = user.line
    after = json.dumps(told)
    if after != before:
        memory.put(place, after)
    for key, value in kept.items():
        memory.put(key, value)
    return before is None


_FIELDS = ("context", "isActive", "customerNumber", "displayName")
_LINE, _PRIMARY, _WITHOUT = 4, 5, 6
"""Places in what is remembered of a user: lines it came first on, of its primary account, without an account."""


def _merged(known: str | None, user: GivenUser) -> list[Any]:
    """Return what is remembered of a user with what an item adds: the fields' values, then lines."""
    told = [user.context, user.is_active, user.customer_number, user.display_name]
    if known is None:
        return [*told, user.line, None, None]
    merged: list[Any] = json.loads(known)
    for at, value in enumerate(told):
        if value is None:
            continue
        if merged[at] is not None and merged[at] != value:
            raise ItemRefused(
                _FIELDS[at],
                Refusal.USER_DIFFERS,
                f"line {merged[_LINE]} says another one of this user",
            )
        merged[at] = value
    return merged


def _same_as(line: object) -> ItemRefused:
    return ItemRefused("line", Refusal.DUPLICATE, f"line {line} is about the same")


def plan_users(
    users: Sequence[GivenUser], known: Known, default: Currency | None
) -> tuple[list[UserPlan], list[RefusedItem]]:
    """Decide what is to be written of items that agree with each other, by what is there.

    Args:
        users: Items; several may be about one user.
        known: What is there.
        default: The currency of new accounts that name none.
    Returns:
        One plan per user, in the order they come first; and the items that cannot be taken.
    """
    plans: dict[UserId, UserPlan] = {}
    refused: list[RefusedItem] = []
    holders = dict(known.holders)
    for user in users:
        plan = plans.get(user.id)
        if plan is None:
            plan = _unchanged(user.id, known)
        try:
            readings = _check(user, plan, holders, default)
        except ItemRefused as refusal:
            refused.append(refusal.at(user.line, user.id))
            continue
        plans[user.id] = plan
        plan.readings |= readings
        _overlay(plan, user, default)
        for account in user.accounts:
            holders[account.number] = holders.get(account.number, frozenset()) | {user.id}
    return list(plans.values()), refused


def _unchanged(user: UserId, known: Known) -> UserPlan:
    before = known.customers.get(user)
    accounts = known.accounts.get(user, {})
    return UserPlan(
        before or Customer(user, is_active=True, context=WALLET),
        before,
        accounts,
        dict(accounts),
    )


def _check(
    user: GivenUser,
    plan: UserPlan,
    holders: Mapping[str, frozenset[UserId]],
    default: Currency | None,
) -> dict[str, Told]:
    """Return the balances the item brings for accounts that were never read; refuse what does not fit."""
    readings: dict[str, Told] = {}
    opened = {one.number for one in user.accounts} - plan.accounts.keys()
    if opened and len(plan.accounts) + len(opened) > ACCOUNTS_MAX:
        raise ItemRefused(
            "accounts", Refusal.TOO_MANY_ACCOUNTS, f"a user has at most {ACCOUNTS_MAX}"
        )
    for account in user.accounts:
        there = plan.accounts.get(account.number)
        if there is None:
            _check_new(user.id, account, holders, default)
        elif account.currency is not None and account.currency != there.currency:
            raise ItemRefused(
                "currency",
                Refusal.CURRENCY_DIFFERS,
                f"the account is in {there.currency.code}; a currency never changes",
            )
        if account.balance is not None:
            currency = there.currency if there is not None else account.currency or default
            assert currency is not None, "a new account has a currency"
            try:
                minor = Money.parse(account.balance, currency).minor
            except InvalidInput as error:
                raise ItemRefused("balance", Refusal.INVALID_VALUE, error.problem) from None
            if there is None or not there.is_read:
                readings[account.number] = Told(minor, account.balance_as_of)
    return readings


def _check_new(
    user: UserId,
    account: GivenAccount,
    holders: Mapping[str, frozenset[UserId]],
    default: Currency | None,
) -> None:
    if account.currency is None and default is None:
        raise ItemRefused("currency", Refusal.MISSING_FIELD, "a new account needs a currency")
    if holders.get(account.number, frozenset()) - {user} and not account.is_joint:
        raise ItemRefused(
            "accountNumber",
            Refusal.NUMBER_TAKEN,
            "the account is another user's; isJoint allows it",
        )


def _overlay(plan: UserPlan, user: GivenUser, default: Currency | None) -> None:
    """Put what an item says over what is there."""
    wanted = plan.wanted
    implied = MOBILE_BANKING if user.accounts else wanted.context
    plan.wanted = replace(
        wanted,
        is_active=wanted.is_active if user.is_active is None else user.is_active,
        context=user.context or implied,
        customer_number=user.customer_number or wanted.customer_number,
        display_name=user.display_name or wanted.display_name,
    )
    for account in user.accounts:
        there = plan.accounts.get(account.number)
        if there is None:
            currency = account.currency or default
            assert currency is not None, "a new account has a currency"
            there = KnownAccount(None, user.id, account.number, currency)
        plan.accounts[account.number] = replace(
            there,
            account_type=account.account_type or there.account_type,
            is_primary=there.is_primary if account.is_primary is None else account.is_primary,
            is_active=there.is_active if account.is_active is None else account.is_active,
        )
        plan.given.append(account.number)
        if account.is_primary:
            _clear_other_flags(plan, account.number)


def _clear_other_flags(plan: UserPlan, primary: str) -> None:
    for number, one in plan.accounts.items():
        if one.is_primary and number != primary:
            plan.accounts[number] = replace(one, is_primary=False)


def claim(memory: Memory, plans: Sequence[UserPlan]) -> None:
    """Remember whose each new account is, for a check that writes nothing."""
    for plan in plans:
        for one in plan.accounts.values():
            key = f"number\0{one.number}"
            if one.account is None and memory.get(key) is None:
                memory.put(key, one.user)


def with_claims(
    memory: Memory, numbers: Sequence[str], holders: Mapping[str, frozenset[UserId]]
) -> dict[str, frozenset[UserId]]:
    """Return who has an account of each number, with those who would have got one before."""
    found = dict(holders)
    for number in numbers:
        claimed = memory.get(f"number\0{number}")
        if claimed is not None:
            found[number] = found.get(number, frozenset()) | {UserId(claimed)}
    return found


def numbers_of(users: Iterable[GivenUser]) -> list[str]:
    """Return every account number the items speak of, once."""
    return sorted({account.number for user in users for account in user.accounts})
