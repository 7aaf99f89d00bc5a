"""Users: made one by one or in bulk, changed, and their tokens revoked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final, Literal

from steelyard.access import store
from steelyard.access.errors import UserExists
from steelyard.access.model import RESERVED_SUBJECTS, User, UserStatus
from steelyard.access.names import check_name
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import UserId, parse_user_id
from steelyard.runtime.database import UnitOfWork

BULK_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be made. In bulk, None keeps what an existing user has."""

    id: UserId
    display_name: str | None = None
    status: UserStatus | None = None


class Keep(Enum):
    """Stands for "as it is" where None is a value of its own."""

    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class UserEdit:
    """What is to change about a user."""

    display_name: str | Literal[Keep.KEEP] | None = Keep.KEEP
    status: UserStatus | Literal[Keep.KEEP] = Keep.KEEP
    revokes_tokens: bool = False


class RowOutcome(StrEnum):
    """What became of one row of a bulk call."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a bulk call and what became of it; `problem` says why it was refused."""

    id: UserId
    outcome: RowOutcome
    problem: str | None = None


def check_new_user(new: NewUser) -> None:
    """Let an acceptable user pass.

    Raises:
        InvalidInput: Its id or name is not acceptable.
    """
    parse_user_id(new.id)
    if new.id.startswith(RESERVED_SUBJECTS):
        raise InvalidInput(
            field="id", problem="this beginning is kept for API keys and the product itself"
        )
    if new.display_name is not None:
        check_name(new.display_name, field="display_name", least=0)


async def create_user(uow: UnitOfWork, new: NewUser, *, now: datetime) -> tuple[User, bool]:
    """Make a user; repeating the same call answers the user made before.

    Returns:
        The user, and whether it was new.
    Raises:
        InvalidInput: Its id or name is not acceptable.
        UserExists: The id is taken by a user with another name or status.
    """
    check_new_user(new)
    wanted = _as_user(uow, new, now)
    if await store.insert_users(uow, [wanted]):
        return wanted, True
    found = await get_user(uow, new.id)
    if (found.display_name, found.status) != (wanted.display_name, wanted.status):
        raise UserExists(user=new.id)
    return found, False


async def upsert_users(uow: UnitOfWork, rows: Sequence[NewUser], *, now: datetime) -> list[Row]:
    """Make or change many users; each row has an outcome of its own, and all that are not refused commit together.

    Repeating a call changes nothing more. Rows are locked in id order until `uow` ends.

    Args:
        uow: Open unit of work; the caller commits.
        rows: At most 10,000. A later row with an id that came before is refused.
        now: UTC, becomes `created_at`.
    Returns:
        One outcome for each row, in the order given.
    Raises:
        InvalidInput: More than 10,000 rows.
    """
    if len(rows) > BULK_MAX:
        raise InvalidInput(field="users", problem=f"a call takes at most {BULK_MAX} rows")
    accepted, refused = _sort_out(rows)
    ordered = sorted(accepted.values(), key=lambda new: new.id)
    created = await store.insert_users(uow, [_as_user(uow, new, now) for new in ordered])
    known = await store.lock_users(uow, [new.id for new in ordered if new.id not in created])
    changed = {
        user.id: replaced
        for user in known.values()
        if (replaced := _overlaid(user, accepted[user.id])) != user
    }
    if changed:
        await store.update_users(uow, list(changed.values()))
    outcomes = []
    for at, new in enumerate(rows):
        if at in refused:
            outcomes.append(Row(new.id, RowOutcome.REFUSED, refused[at]))
        elif new.id in created:
            outcomes.append(Row(new.id, RowOutcome.CREATED))
        else:
            is_changed = new.id in changed
            outcomes.append(Row(new.id, RowOutcome.UPDATED if is_changed else RowOutcome.UNCHANGED))
    return outcomes


async def get_user(uow: UnitOfWork, user: UserId) -> User:
    """Return a user of the tenant.

    Raises:
        NotFound: There is no such user in this tenant.
    """
    found = await store.find_user(uow, user)
    if found is None:
        raise NotFound(kind="user", identifier=user)
    return found


async def list_users(uow: UnitOfWork, *, after: str | None, limit: int) -> list[User]:
    """Return users by id, from after the given one."""
    return await store.list_users(uow, after=after, limit=limit)


async def change_user(uow: UnitOfWork, user: UserId, edit: UserEdit, *, now: datetime) -> User:
    """Change a user; revoking refuses every token issued before `now`.

    Other processes may take such a token for up to 5 s more; this one forgets it by
    `Authenticator.forget_user` after the commit.

    Raises:
        InvalidInput: The name is not acceptable.
        NotFound: There is no such user in this tenant.
    """
    known = await store.lock_users(uow, [user])
    if user not in known:
        raise NotFound(kind="user", identifier=user)
    changed = known[user]
    if edit.display_name is not Keep.KEEP:
        if edit.display_name is not None:
            check_name(edit.display_name, field="display_name", least=0)
        changed = replace(changed, display_name=edit.display_name)
    if edit.status is not Keep.KEEP:
        changed = replace(changed, status=edit.status)
    if edit.revokes_tokens:
        changed = replace(changed, tokens_valid_from=max(now, changed.tokens_valid_from or now))
    if changed != known[user]:
        await store.update_users(uow, [changed])
    return changed


def _as_user(uow: UnitOfWork, new: NewUser, now: datetime) -> User:
    return User(uow.tenant, new.id, new.display_name, new.status or UserStatus.ACTIVE, None, now)


def _overlaid(user: User, new: NewUser) -> User:
    name = user.display_name if new.display_name is None else new.display_name
    return replace(user, display_name=name, status=new.status or user.status)


def _sort_out(rows: Sequence[NewUser]) -> tuple[dict[UserId, NewUser], dict[int, str]]:
    accepted: dict[UserId, NewUser] = {}
    refused: dict[int, str] = {}
    for at, new in enumerate(rows):
        try:
            check_new_user(new)
        except InvalidInput as error:
            refused[at] = f"{error.field}: {error.problem}"
            continue
        if new.id in accepted:
            refused[at] = "id: it occurs earlier in this call"
        else:
            accepted[new.id] = new
    return accepted, refused
