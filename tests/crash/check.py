"""Checks a history against the ledger it left, in linear time, with arithmetic of its own.

Nothing here asks the product: rows are read by a superuser, sums, order and hashes are computed anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.crash.check_accounts import check_accounts
from tests.crash.check_time import check_times
from tests.crash.history import Asked, Done, History, Invocation, Refused, Unknown
from tests.crash.laws import Law, Violation
from tests.crash.ledger_copy import ChangeRow, LedgerCopy, OperationRow, key_in

# What an order of this workload may be refused with.
HONEST_REFUSALS = frozenset(
    "insufficient_funds idempotency_conflict hold_not_open capture_exceeds_hold already_reversed "
    "reversal_exceeds_transaction same_account invalid_input not_found not_reversible overloaded".split()
)


def check(history: History, ledger: LedgerCopy) -> list[Violation]:
    """Return every breach of every law."""
    evidence = Evidence(history, ledger)
    return [
        *evidence.check_orders(),
        *evidence.check_changes(),
        *check_accounts(ledger),
        *check_times(history, ledger, evidence.change_of_key),
    ]


@dataclass
class Evidence:
    """The history and the ledger with what is needed to find one's place in the other."""

    history: History
    ledger: LedgerCopy
    changes: dict[tuple[int, int], ChangeRow] = field(init=False)
    operations: dict[str, OperationRow] = field(init=False)
    written: dict[str, list[ChangeRow]] = field(init=False)
    """By the key that stands in a change itself: first sides only, so one order is one."""
    change_of_key: dict[str, ChangeRow] = field(init=False)

    def __post_init__(self) -> None:
        self.changes = {(one.account, one.seq): one for one in self.ledger.changes}
        self.operations = {one.key: one for one in self.ledger.operations}
        self.written, self.change_of_key = {}, {}
        for change in self.ledger.changes:
            key = key_in(change)
            if key is not None and not is_second_side(change):
                self.written.setdefault(key, []).append(change)
        for key, operation in self.operations.items():
            found = self.changes.get((operation.account, operation.seq))
            if found is not None:
                self.change_of_key[key] = found

    # --- from orders to the ledger -------------------------------------------------------------------------------

    def check_orders(self) -> Iterator[Violation]:
        """Follow every key that clients used to what it left."""
        for key, invocations in self.history.by_key().items():
            done = [one for one in invocations if isinstance(one.outcome, Done)]
            count = len(self.written.get(key, []))
            if done:
                yield from self._check_acknowledged(key, done, count)
            elif any(isinstance(one.outcome, Unknown) for one in invocations):
                if count > 1:
                    yield Violation(Law.UNANSWERED, f"it is there {count} times", key=key)
            elif count or key in self.operations:
                codes = {
                    one.outcome.code for one in invocations if isinstance(one.outcome, Refused)
                }
                yield Violation(Law.REFUSED, f"refused as {codes}, written {count} times", key=key)
            yield from self._check_refusals(key, invocations, done)

    def _check_acknowledged(
        self, key: str, done: list[Invocation], count: int
    ) -> Iterator[Violation]:
        first = done[0].outcome
        assert isinstance(first, Done)
        account = done[0].asked.account
        if count != 1:
            yield Violation(Law.ACKNOWLEDGED, f"it is there {count} times", account, key)
        change = self.change_of_key.get(key)
        if change is None:
            yield Violation(Law.ACKNOWLEDGED, "its key leads to no change", account, key)
            return
        for one in done:
            assert isinstance(one.outcome, Done)
            if one.outcome.effect != first.effect:
                yield Violation(
                    Law.REPLAYS, f"answered {first.effect}, then {one.outcome.effect}", account, key
                )
            if one.outcome.effect != effect_of(change) or change.account != one.asked.account:
                yield Violation(
                    Law.ACKNOWLEDGED,
                    f"answered {one.outcome.effect}, the ledger has {effect_of(change)}",
                    account,
                    key,
                )
            problem = self._unlike(one.asked, change)
            if problem:
                yield Violation(Law.KEYS, problem, account, key)
        if sum(isinstance(one.outcome, Done) and not one.outcome.replayed for one in done) > 1:
            yield Violation(Law.REPLAYS, "two answers say it was posted just now", account, key)

    def _check_refusals(
        self, key: str, invocations: list[Invocation], done: list[Invocation]
    ) -> Iterator[Violation]:
        known_s = min((one.completed_s for one in done), default=float("inf"))
        change = self.change_of_key.get(key)
        for one in invocations:
            if not isinstance(one.outcome, Refused):
                continue
            code = one.outcome.code
            if code not in HONEST_REFUSALS:
                yield Violation(Law.FAILURES, f"refused as {code}", one.asked.account, key)
            elif code == "idempotency_conflict":
                if change is None or all(one.asked == other.asked for other in invocations):
                    yield Violation(
                        Law.KEYS, "a conflict without another order", one.asked.account, key
                    )
            elif one.invoked_s > known_s and any(one.asked == other.asked for other in done):
                yield Violation(
                    Law.REPLAYS, f"acknowledged, then refused as {code}", one.asked.account, key
                )

    def _unlike(self, asked: Asked, change: ChangeRow) -> str | None:
        """Say how a change is not what was asked; None where it is."""
        expected = self._expected(asked, change)
        actual = (change.kind, abs(change.amount), abs(change.held_amount), change.target)
        if expected != actual:
            return f"asked for {expected}, the ledger has {actual}"
        if asked.kind == "transfer" and change.contra != asked.counter:
            return f"meant for account {asked.counter}, went to {change.contra}"
        return None

    def _expected(self, asked: Asked, change: ChangeRow) -> tuple[str, int, int, int | None]:
        named = self.changes.get((asked.account, asked.target or 0))
        whole = named.held_amount if named is not None else 0
        amount = asked.amount if asked.amount is not None else abs(change.amount)
        if asked.kind == "hold":
            return "hold", 0, amount, None
        if asked.kind == "capture":
            return "capture", whole if asked.amount is None else amount, whole, asked.target
        if asked.kind == "release":
            return "release", 0, whole, asked.target
        return asked.kind, amount, 0, asked.target

    # --- from the ledger to orders -------------------------------------------------------------------------------

    def check_changes(self) -> Iterator[Violation]:
        """Follow every change of a user's account back to the order of a client."""
        asked = self.history.by_key()
        for key, operation in self.operations.items():
            if key not in asked:
                yield Violation(Law.KNOWN, "nobody sent this key", operation.account, key)
            if (operation.account, operation.seq) not in self.changes:
                yield Violation(
                    Law.KNOWN, f"its change {operation.seq} is missing", operation.account, key
                )
        places = {(one.account, one.seq): one.key for one in self.operations.values()}
        for change in self.ledger.changes:
            if change.kind == "batch":
                continue
            if is_second_side(change):
                place = (change.contra or 0, change.contra_seq or 0)
                other = self.changes.get(place)
                if other is None or other.contra_seq != change.seq:
                    yield Violation(
                        Law.KNOWN, f"change {change.seq} has no other side", change.account
                    )
            elif places.get((change.account, change.seq)) != key_in(change):
                yield Violation(
                    Law.KNOWN,
                    f"change {change.seq} stands under {places.get((change.account, change.seq))}",
                    change.account,
                    key_in(change),
                )


def effect_of(change: ChangeRow) -> tuple[int, int, int, int, int]:
    """Return what an answer tells of a change."""
    return (
        change.seq,
        change.amount,
        change.held_amount,
        change.balance_after,
        change.held_after,
    )


def is_second_side(change: ChangeRow) -> bool:
    """Whether the change is the receiving side of a transfer, or of a transfer's reversal."""
    if change.contra_seq is None:
        return False
    return (change.kind == "transfer" and change.amount > 0) or (
        change.kind == "reversal" and change.target is None
    )
