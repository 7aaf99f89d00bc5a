"""Users with accounts that come in one call: each has its own outcome, and all that are not refused commit together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from steelyard.access.audit import record_audit
from steelyard.access.model import Principal
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import UserId
from steelyard.core.money import Currency
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.database import UnitOfWork
from steelyard.sync.enroll import Enrollment
from steelyard.sync.enroll_users import counts_of, enroll_users
from steelyard.sync.enrolment import EnrolledUser, GivenUser, ItemRefused, Refusal, RefusedItem
from steelyard.sync.enrolment_fields import user_of_object
from steelyard.sync.enrolment_rules import DictMemory, remember

ITEMS_MAX: Final = 1_000
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class EnrolmentCall:
    """Who enrolls, where, and the currency of new accounts that name none."""

    principal: Principal
    enrollment: Enrollment
    currency: Currency | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one item: one of both is there."""

    enrolled: EnrolledUser | None
    refused: RefusedItem | None

    @property
    def word(self) -> str:
        """`created`, `updated`, `unchanged` or `refused`."""
        return REFUSED if self.enrolled is None else self.enrolled.outcome.value


@dataclass(frozen=True, slots=True)
class EnrolledItems:
    """Outcomes in the order of the items; `events` are to be published, `forgotten` to be forgotten, after the commit."""

    outcomes: list[ItemOutcome]
    events: list[BalanceEvent]
    forgotten: list[UserId]
    """Users there were whose tokens count otherwise now."""

    @property
    def counts(self) -> Counter[str]:
        """How many items had each outcome."""
        return Counter(one.word for one in self.outcomes)


async def enroll_items(
    uow: UnitOfWork, items: Sequence[object], call: EnrolmentCall, *, now: datetime
) -> EnrolledItems:
    """Bring users and accounts to what objects of the reference's form say of them; repeating it changes nothing more.

    Args:
        uow: Open unit of work; the caller commits.
        items: At most 1,000 JSON objects, each about another user.
        call: Who, where.
        now: UTC.
    Raises:
        InvalidInput: More than 1,000 items.
    """
    if len(items) > ITEMS_MAX:
        raise InvalidInput(field="users", problem=f"a call takes at most {ITEMS_MAX:,} users")
    users, refused = _read(items)
    enrolled = await enroll_users(
        uow, list(users.values()), call.enrollment, default=call.currency, now=now
    )
    refused |= {one.line: one for one in enrolled.refused}
    by_user = {one.id: one for one in enrolled.users}
    outcomes = [
        ItemOutcome(None, refused[line])
        if line in refused
        else ItemOutcome(by_user[users[line].id], None)
        for line in range(1, len(items) + 1)
    ]
    counts = counts_of(enrolled.plans)
    if counts.changes:
        await record_audit(
            uow,
            call.principal,
            action="sync.enroll",
            now=now,
            request_id=call.request_id,
            details=asdict(counts),
        )
    return EnrolledItems(outcomes, enrolled.events, enrolled.status_changed)


def _read(items: Sequence[object]) -> tuple[dict[int, GivenUser], dict[int, RefusedItem]]:
    """Return items that can be read and agree, and the others, by their places from 1."""
    memory, seen = DictMemory(), set[UserId]()
    users: dict[int, GivenUser] = {}
    refused: dict[int, RefusedItem] = {}
    for line, item in enumerate(items, start=1):
        name = _named(item)
        try:
            user = user_of_object(line, item)
            if user.id in seen:
                raise ItemRefused("id", Refusal.DUPLICATE, "an item before it is about this user")
            remember(memory, user)
        except ItemRefused as refusal:
            refused[line] = refusal.at(line, name)
        else:
            seen.add(user.id)
            users[line] = user
    return users, refused


def _named(item: object) -> str | None:
    """Return the id an item gives itself, for its refusal."""
    if not isinstance(item, dict):
        return None
    found = item.get("id") or item.get("username")
    return str(found)[:128] if isinstance(found, str | int) else None
