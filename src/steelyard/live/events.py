"""Events on their way to clients. One event is made once and shared by every session that hears it."""

from dataclasses import dataclass, field

from steelyard.core.ids import AccountId
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.event_payloads import updated_payload

BALANCE_UPDATED = "balance_updated"


@dataclass(slots=True, eq=False)
class LiveEvent:
    """A named event with its payload as JSON text, and the frames transports have made of it."""

    name: str
    payload: str
    account: AccountId | None = None
    seq: int | None = None
    _frames: dict[str, str] = field(default_factory=dict)

    def frame(self, before: str, between: str, after: str) -> str:
        """Return `before` name `between` payload `after`; kept, since every session of a transport asks for the same."""
        found = self._frames.get(before)
        if found is None:
            found = self._frames[before] = f"{before}{self.name}{between}{self.payload}{after}"
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
        return update_of(
            newer.event,
            previous=self.previous,
            prev_seq=self.prev_seq,
            is_replayed=newer.payload.endswith('"replayed":true}'),
        )


def update_of(
    event: BalanceEvent, *, previous: int, prev_seq: int, is_replayed: bool = False
) -> BalanceUpdate:
    """Return the `balance_updated` of the steps after `prev_seq` up to the event's."""
    return BalanceUpdate(
        BALANCE_UPDATED,
        updated_payload(event, previous=previous, prev_seq=prev_seq, is_replayed=is_replayed),
        event.account,
        event.seq,
        event=event,
        previous=previous,
        prev_seq=prev_seq,
    )
