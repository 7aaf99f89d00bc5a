"""What happened, line by line, and a number that stands for all of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from steelyard.runtime.bus import BalanceEvent

SHORT = 12


@dataclass(frozen=True, slots=True)
class SeenLease:
    """A lease as it was granted, at the moment the database was told."""

    at: datetime
    server: str
    user: str
    token: int
    until: datetime
    run: int
    priority: int


@dataclass(frozen=True, slots=True)
class SeenFinish:
    """A lease's end that was accepted."""

    at: datetime
    user: str
    token: int
    state: str


@dataclass(slots=True)
class Trace:
    """Every statement with its answer is in the number; a line says what is worth reading.

    Args:
        now_s: Virtual seconds.
        write: Told of each line.
    """

    now_s: Callable[[], float]
    write: Callable[[str], None] = lambda _: None
    counts: Counter[str] = field(default_factory=Counter)
    leases: list[SeenLease] = field(default_factory=list)
    finishes: list[SeenFinish] = field(default_factory=list)
    events: list[BalanceEvent] = field(default_factory=list)
    lines: int = 0
    _sum: Any = field(default_factory=sha256)

    @property
    def digest(self) -> str:
        """Return the number: the same for the same day, to the byte."""
        return str(self._sum.hexdigest())

    def add(self, what: str, *details: object) -> None:
        """Note one line."""
        line = " ".join([f"{self.now_s():.6f}", what, *map(str, details)])
        self.counts[what] += 1
        self.lines += 1
        self._sum.update(line.encode() + b"\n")
        self.write(line)

    def hear(self, event: BalanceEvent) -> None:
        """Note a change that was told of."""
        self.events.append(event)
        self.add("change", event.user, event.account, event.seq, event.amount, event.posted)

    def see(self, server: str, sql: str, args: tuple[Any, ...], answer: object) -> None:
        """Note a statement: wholly in the number, and what it means for syncs as lines."""
        # A proof's sums are keyed by a number that it draws by lot: of those only that they were asked for.
        told = "" if "bit_xor(" in sql else f"{args!r} {answer!r}"
        self._sum.update(f"{self.now_s():.6f} {server} {sql} {told}\n".encode())
        if isinstance(answer, BaseException):
            self.add("refused", server, type(answer).__name__)
        elif "steelyard.lease_targets(" in sql:
            self._see_leases(server, args[0], answer)
        elif "steelyard.finish_targets(" in sql:
            self._see_finishes(server, args, answer)
        elif "UPDATE steelyard.provider_budget" in sql:
            self.add("budget", server, *args[2:])

    def _see_leases(self, server: str, now: datetime, rows: Any) -> None:
        for row in rows:
            one = SeenLease(
                now,
                server,
                row["subject"],
                row["lease_token"],
                row["lease_until"],
                row["run_id"],
                row["priority"],
            )
            self.leases.append(one)
            self.add("lease", server, one.user, one.token, one.run, one.priority, row["attempts"])

    def _see_finishes(self, server: str, args: tuple[Any, ...], accepted: Any) -> None:
        now, _, _, users, tokens, states, dues, _, words, *_ = args
        for place in range(len(users)):
            is_accepted = place + 1 in accepted
            if is_accepted:
                self.finishes.append(SeenFinish(now, users[place], tokens[place], states[place]))
            what = "finish" if is_accepted else "late"
            due_s = (dues[place] - now).total_seconds()
            self.add(what, server, users[place], tokens[place], states[place], words[place], due_s)
