"""Pausing, resuming and cancelling: durable, for all processes, and in the audit record."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from steelyard.access.audit import record_audit
from steelyard.access.model import Principal
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import UserId
from steelyard.runtime.database import UnitOfWork
from steelyard.sync.model import BALANCES
from steelyard.sync.rules import next_rest
from steelyard.sync.store import control
from steelyard.sync.store.budgets import find_budget

REASON_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ControlOrder:
    """What is paused, resumed or cancelled: one user, or all of the tenant at a source; and why."""

    provider: str
    user: UserId | None = None
    reason: str | None = None
    request_id: str | None = None


async def pause_sync(
    uow: UnitOfWork, principal: Principal, order: ControlOrder, *, now: datetime
) -> bool:
    """Ask for nothing more until `resume_sync`; what is in flight ends. Returns whether that is new.

    Logins get the stored balance at once, with reason `paused`.

    Raises:
        NotFound: No such source in this tenant, or no such user who is synced there.
        InvalidInput: The reason is too long or holds control characters.
    """
    _check_reason(order.reason)
    actor = principal.subject
    if order.user is None:
        await _check_source(uow, order.provider)
        is_new = await control.pause_source(
            uow, order.provider, actor=actor, reason=order.reason, now=now
        )
    else:
        await _check_target(uow, order.user)
        is_new = await control.pause_target(
            uow, BALANCES, order.provider, order.user, actor=actor, reason=order.reason, now=now
        )
    await _record(uow, principal, order, "sync.pause", has_changed=is_new, now=now)
    return is_new


async def resume_sync(
    uow: UnitOfWork, principal: Principal, order: ControlOrder, *, now: datetime
) -> bool:
    """Ask again for what is due. Returns whether it was paused. A user who is paused alone stays so with its source.

    Raises:
        NotFound: As `pause_sync`.
    """
    _check_reason(order.reason)
    if order.user is None:
        await _check_source(uow, order.provider)
        was_paused = await control.resume_source(uow, order.provider)
    else:
        await _check_target(uow, order.user)
        was_paused = await control.resume_target(uow, BALANCES, order.provider, order.user)
    await _record(uow, principal, order, "sync.resume", has_changed=was_paused, now=now)
    return was_paused


async def cancel_sync(
    uow: UnitOfWork,
    principal: Principal,
    order: ControlOrder,
    *,
    interval: timedelta | None,
    now: datetime,
) -> int:
    """End what a user's syncs are at. Returns how many runs ended as cancelled.

    One that waits is not begun. One in flight keeps its lease until it ends, so that nobody asks for the user beside
    it, but nothing it brings is written. The next sync is that of the period, or one that is asked for.

    Raises:
        NotFound: No such user who is synced.
    """
    assert order.user is not None, "only a user's syncs are cancelled"
    _check_reason(order.reason)
    await _check_target(uow, order.user)
    rest_at = next_rest(uow.tenant, order.user, interval, now=now)
    cancelled = await control.cancel_runs(uow, BALANCES, order.user, rest_at=rest_at, now=now)
    await _record(uow, principal, order, "sync.cancel", has_changed=cancelled > 0, now=now)
    return cancelled


async def _check_source(uow: UnitOfWork, provider: str) -> None:
    if await find_budget(uow, provider) is None:
        raise NotFound(kind="source", identifier=provider)


async def _check_target(uow: UnitOfWork, user: UserId) -> None:
    if await control.find_target(uow, BALANCES, user) is None:
        raise NotFound(kind="synced user", identifier=user)


def _check_reason(reason: str | None) -> None:
    if reason is not None and not (1 <= len(reason) <= REASON_MAX and reason.isprintable()):
        raise InvalidInput(
            field="reason", problem=f"a reason is 1 to {REASON_MAX} printable characters"
        )


async def _record(
    uow: UnitOfWork,
    principal: Principal,
    order: ControlOrder,
    action: str,
    *,
    has_changed: bool,
    now: datetime,
) -> None:
    target = f"source:{order.provider}" if order.user is None else f"user:{order.user}"
    await record_audit(
        uow,
        principal,
        action=action,
        now=now,
        target=target,
        outcome="done" if has_changed else "unchanged",
        request_id=order.request_id,
        details={"provider": order.provider, "reason": order.reason},
    )
