"""The bus: who hears of a committed change.

In process here; `steelyard.runtime.redis` carries events between processes. A bus is a hint, never the record: a
message may be lost, and whoever listens heals by `seq` from the journal. Publishing never waits and never fails.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import msgspec

from steelyard.core.ids import AccountId, TenantId, TransactionId, UserId


class BalanceEvent(msgspec.Struct, frozen=True):
    """One committed step of one account, or a refusal of one (then `seq` is None and nothing moved)."""

    event: str
    tenant: TenantId
    account: AccountId
    user: UserId | None
    currency: str
    seq: int | None
    kind: str
    amount: int
    """Signed step of the available balance, minor units; 0 for a refusal."""
    posted: int
    held: int
    at: datetime
    transaction: TransactionId | None
    required: int | None = None
    reference: str | None = None
    """Id of the refused top-up."""

    @property
    def available(self) -> int:
        """Posted less held, after the step."""
        return self.posted - self.held


Listener = Callable[[BalanceEvent], None]


class ChangeBus(Protocol):
    """Carries balance events to whoever listens."""

    def publish(self, event: BalanceEvent) -> None:
        """Hand the event to every listener; never waits, never raises."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Hear of every event from now on; call the returned function to stop."""
        ...


@dataclass(slots=True)
class InProcessBus:
    """Listeners in this process. A listener that raises is counted and heard again next time."""

    failures: int = 0
    published: int = 0
    heard: int = 0
    """Of other processes."""
    _listeners: list[Listener] = field(default_factory=list)
    _own_listeners: list[Listener] = field(default_factory=list)

    def publish(self, event: BalanceEvent) -> None:
        """Call every listener."""
        self.published += 1
        self._call(self._listeners, event)
        self._call(self._own_listeners, event)

    def publish_foreign(self, event: BalanceEvent) -> None:
        """Call every listener but those of `subscribe_own`: another process published it already."""
        self.heard += 1
        self._call(self._listeners, event)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener."""
        return _add(self._listeners, listener)

    def subscribe_own(self, listener: Listener) -> Callable[[], None]:
        """Add a listener that hears, after the others, only what this process publishes: it tells other processes."""
        return _add(self._own_listeners, listener)

    def _call(self, listeners: list[Listener], event: BalanceEvent) -> None:
        for listener in tuple(listeners):
            try:
                listener(event)
            except Exception:  # one listener must not silence the others; counted
                self.failures += 1


def _add(listeners: list[Listener], listener: Listener) -> Callable[[], None]:
    listeners.append(listener)

    def stop() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return stop


@dataclass(slots=True)
class RecentEvents:
    """The newest `limit` events, for tests and for the operator's eye."""

    limit: int = 1000
    events: deque[BalanceEvent] = field(default_factory=deque)

    def __call__(self, event: BalanceEvent) -> None:
        self.events.append(event)
        while len(self.events) > self.limit:
            self.events.popleft()
