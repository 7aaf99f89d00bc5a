"""The laws a history and a ledger must keep together, and how a breach is told."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Law(StrEnum):
    """What must hold, whatever was killed when."""

    ACKNOWLEDGED = "an acknowledged order is in the ledger exactly once, as it was answered"
    REFUSED = "a refused order left nothing behind"
    UNANSWERED = "an order without an answer is in the ledger at most once"
    KNOWN = "every change goes back to one order that a client sent"
    STEPS = "changes are numbered without a gap and each follows from the one before"
    FLOOR = "available money never lies below the floor"
    STANDING = "what is stored of an account is what its changes add up to"
    HOLDS = "a hold ends once, and open holds are what is held"
    REVERSALS = "a transaction is taken back once, or in parts up to its whole"
    READS = "a balance that was read is one the account really had"
    REAL_TIME = "what ended before something else began has the smaller number"
    BOOKS = "the books sum to zero at every commit"
    KEYS = "a key used for another order is refused as that and changes nothing"
    REPLAYS = "every answer to one order is the same"
    CHAIN = "every change fits its hash"
    REASONS = "a refusal for want of money has a moment at which the money was not there"
    FAILURES = "no order fails from inside"
    VERIFY = "the product's own verification is clean"


@dataclass(frozen=True, slots=True)
class Violation:
    """One law broken at one place."""

    law: Law
    what: str
    account: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        where = [f"account {self.account}"] if self.account is not None else []
        where += [f"key {self.key}"] if self.key is not None else []
        return f"{self.law.name}: {self.what}" + (f" ({', '.join(where)})" if where else "")


def told(violations: Iterable[Violation], *, examples: int = 3) -> str:
    """Return a text of what was broken: each law with its count and first examples."""
    found = list(violations)
    if not found:
        return "no violation"
    lines = []
    for law, count in Counter(one.law for one in found).most_common():
        lines.append(f"{law.name}, {count} times: {law}")
        lines += [f"    {one}" for one in found if one.law is law][:examples]
    return "\n".join(lines)
