"""What waits for one client: bounded, and with only the newest balance of each account.

Nothing else holds events for a client. A transport's writer takes the next event when it can send it; while it
cannot, balances are merged here, and when too much waits the session ends as too slow.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from steelyard.core.ids import AccountId
from steelyard.live.events import BalanceUpdate, LiveEvent

OUTBOX_LIMIT = 256


@dataclass(slots=True, eq=False)
class Outbox:
    """Events in the order they are to be sent.

    `wake` is called when something waits where nothing did; `overflow` once, when more than `limit` wait.
    """

    wake: Callable[[], None]
    overflow: Callable[[], None]
    limit: int = OUTBOX_LIMIT
    merged: int = 0
    _waiting: deque[LiveEvent | AccountId] = field(default_factory=deque)
    """Events; an account's id stands where its merged balance update is to be sent."""
    _updates: dict[AccountId, BalanceUpdate] = field(default_factory=dict)
    _is_full: bool = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, event: LiveEvent) -> None:
        """Add an event. A balance update joins the one of its account that waits already, in its place."""
        if self._is_full:
            return
        if isinstance(event, BalanceUpdate) and event.account is not None:
            waiting = self._updates.get(event.account)
            if waiting is not None:
                self._updates[event.account] = waiting.follow(event)
                self.merged += 1
                return
            self._updates[event.account] = event
            self._append(event.account)
        else:
            self._append(event)

    def peek(self) -> LiveEvent | None:
        """Return the next event to send and leave it, or None where nothing waits."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        return first if isinstance(first, LiveEvent) else self._updates[first]

    def take(self) -> LiveEvent | None:
        """Return the next event to send, or None where nothing waits."""
        if not self._waiting:
            return None
        first = self._waiting.popleft()
        return first if isinstance(first, LiveEvent) else self._updates.pop(first)

    def clear(self) -> None:
        """Forget everything; nothing is taken in any more."""
        self._is_full = True
        self._waiting.clear()
        self._updates.clear()

    def _append(self, entry: LiveEvent | AccountId) -> None:
        if len(self._waiting) >= self.limit:
            self.clear()
            self.overflow()
            return
        self._waiting.append(entry)
        if len(self._waiting) == 1:
            self.wake()
