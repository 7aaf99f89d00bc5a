"""What clients asked and what they were told: append-only, with the times of both on one monotonic clock."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

# What `change.details` says of every order of the workload: whose key it was. The checker finds a posting's key by
# it without trusting the table of keys.
LABEL = "key {}"


class Asked(Struct, frozen=True):
    """One order as a client sends it. Minor units; `target` is the `seq` of the hold or change it is about."""

    kind: str
    account: int
    amount: int | None
    key: str
    counter: int | None = None
    target: int | None = None

    @property
    def description(self) -> str:
        """The text that goes with the order and stays with its change."""
        return LABEL.format(self.key)


class Done(Struct, frozen=True, tag="ok"):
    """Acknowledged: took effect at `seq`, now or when the key was first used."""

    seq: int
    amount: int
    held_amount: int
    balance_after: int
    held_after: int
    replayed: bool

    @property
    def effect(self) -> tuple[int, int, int, int, int]:
        """Everything that is the same on every replay."""
        return self.seq, self.amount, self.held_amount, self.balance_after, self.held_after


class Refused(Struct, frozen=True, tag="refused"):
    """Refused with a code: nothing was written for it."""

    code: str


class Unknown(Struct, frozen=True, tag="unknown"):
    """No answer, or the answer that nobody knows."""

    why: str


Outcome = Done | Refused | Unknown


class Invocation(Struct, frozen=True):
    """One order sent once. Seconds of a monotonic clock; an unknown one is complete when its client gave up."""

    client: int
    process: int
    asked: Asked
    invoked_s: float
    completed_s: float
    outcome: Outcome


class Reading(Struct, frozen=True):
    """One balance read once."""

    client: int
    process: int
    account: int
    seq: int
    posted: int
    held: int
    invoked_s: float
    completed_s: float


@dataclass(slots=True)
class History:
    """All that clients saw. Only grows."""

    invocations: list[Invocation] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    def record(self, seen: Invocation | Reading) -> None:
        """Append what one client saw."""
        if isinstance(seen, Invocation):
            self.invocations.append(seen)
        else:
            self.readings.append(seen)

    @property
    def unknown(self) -> int:
        """How many orders were left without an answer."""
        return sum(isinstance(one.outcome, Unknown) for one in self.invocations)

    @property
    def refused(self) -> int:
        """How many orders were refused."""
        return sum(isinstance(one.outcome, Refused) for one in self.invocations)

    @property
    def acknowledged(self) -> int:
        """How many orders were acknowledged, replays among them."""
        return sum(isinstance(one.outcome, Done) for one in self.invocations)

    def by_key(self) -> dict[str, list[Invocation]]:
        """Return the invocations of each key, in the order in which they ended."""
        found: dict[str, list[Invocation]] = {}
        for one in self.invocations:
            found.setdefault(one.asked.key, []).append(one)
        return found

    def write(self, path: Path) -> None:
        """Keep the history as one JSON document a line, to look into afterwards."""
        with path.open("wb") as file:
            for line in self._lines():
                file.write(line + b"\n")

    def _lines(self) -> Iterator[bytes]:
        for one in self.invocations:
            yield msgspec.json.encode(one)
        for reading in self.readings:
            yield msgspec.json.encode(reading)
