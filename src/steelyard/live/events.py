"""Events on their way to clients. One event is made once and shared by every session that hears it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from steelyard.core.ids import AccountId
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.event_payloads import (
    completed_payload,
    completes_transaction,
    failed_payload,
    insufficient_payload,
    updated_payload,
)

BALANCE_INITIAL = "balance_initial"
BALANCE_UPDATED = "balance_updated"
BALANCE_INSUFFICIENT = "balance_insufficient"
TRANSACTION_COMPLETED = "transaction_completed"
TRANSACTION_FAILED = "transaction_failed"
BALANCE_SUBSCRIBED = "balance_subscribed"
BALANCE_CURRENT = "balance_current"
AUTH_EXPIRING = "auth_expiring"
AUTH_REFRESHED = "auth_refreshed"
ERROR = "error"

SERVER_EVENTS = (
    BALANCE_INITIAL,
    BALANCE_UPDATED,
    TRANSACTION_COMPLETED,
    TRANSACTION_FAILED,
    BALANCE_INSUFFICIENT,
    BALANCE_SUBSCRIBED,
    BALANCE_CURRENT,
    AUTH_EXPIRING,
    AUTH_REFRESHED,
    ERROR,
)
"""Every event the server sends, as docs/reference/events.md lists them."""

COMPLAINTS = ("malformed_frame", "frame_too_large", "binary_frame", "unknown_event")
"""What is told of frames that make no sense, beside the codes every door knows."""


@dataclass(slots=True, eq=False)
class LiveEvent:
    """A named event with its payload as JSON text, and the frames transports have made of it."""

    name: str
    payload: str
    account: AccountId | None = None
    seq: int | None = None
    moves_position: bool = False
    """Once this is sent, nothing of `account` up to `seq` remains to be sent."""
    _frames: dict[str, str] = field(default_factory=dict)

    def frame(self, before: str, between: str, after: str) -> str:
        """Return `before` name `between` payload `after`; kept, since every session of a transport asks for the same."""
        found = self._frames.get(before)
        if found is None:
            found = self._frames[before] = f"{before}{self.name}{between}{self.payload}{after}"
        return found

    def framed(self, kind: str, make: Callable[["LiveEvent"], str]) -> str:
        """Return what `make` makes of this event; kept under `kind`."""
        found = self._frames.get(kind)
        if found is None:
            found = self._frames[kind] = make(self)
        return found


@dataclass(slots=True, eq=False)
class BalanceUpdate(LiveEvent):
    """`balance_updated`: the only event of which two may become one while a reader is slow."""

    event: BalanceEvent | None = None
    previous: int = 0
    prev_seq: int = 0

    def follow(self, newer: "BalanceUpdate") -> "BalanceUpdate":
        """Return one event for both: from where this one began to where the newer one ended."""
        assert newer.event is not None
        return update_of(newer.event, previous=self.previous, prev_seq=self.prev_seq)


def update_of(event: BalanceEvent, *, previous: int, prev_seq: int) -> BalanceUpdate:
    """Return the `balance_updated` of the steps after `prev_seq` up to the event's."""
    return BalanceUpdate(
        BALANCE_UPDATED,
        updated_payload(event, previous=previous, prev_seq=prev_seq),
        event.account,
        event.seq,
        moves_position=not completes_transaction(event),
        event=event,
        previous=previous,
        prev_seq=prev_seq,
    )


def live_events_of(step: BalanceEvent) -> tuple[LiveEvent, ...]:
    """Return a committed step as it is told: `balance_updated`, then `transaction_completed` unless it moved nothing."""
    assert step.seq is not None, "a refusal is no step"
    update = update_of(step, previous=step.available - step.amount, prev_seq=step.seq - 1)
    if not completes_transaction(step):
        return (update,)
    return (
        update,
        LiveEvent(
            TRANSACTION_COMPLETED,
            completed_payload(step),
            step.account,
            step.seq,
            moves_position=True,
        ),
    )


def replayed_events_of(step: BalanceEvent) -> tuple[LiveEvent, ...]:
    """Return a step a client missed, under its old names with `replayed: true`; two of these never become one."""
    assert step.seq is not None, "a refusal is no step"
    previous = step.available - step.amount
    updated = updated_payload(step, previous=previous, prev_seq=step.seq - 1, is_replayed=True)
    completes = completes_transaction(step)
    first = LiveEvent(BALANCE_UPDATED, updated, step.account, step.seq, not completes)
    if not completes:
        return (first,)
    completed = completed_payload(step, is_replayed=True)
    return (first, LiveEvent(TRANSACTION_COMPLETED, completed, step.account, step.seq, True))


def refusal_of(event: BalanceEvent) -> LiveEvent | None:
    """Return what is told of something that changed nothing: lack of money, a refused top-up."""
    if event.event == TRANSACTION_FAILED:
        return LiveEvent(TRANSACTION_FAILED, failed_payload(event, event.reference or ""))
    if event.event == BALANCE_INSUFFICIENT:
        return LiveEvent(BALANCE_INSUFFICIENT, insufficient_payload(event))
    return None


def json_event(name: str, fields: object) -> LiveEvent:
    """Return an event whose payload holds text that needs escaping."""
    return LiveEvent(name, msgspec.json.encode(fields).decode())
