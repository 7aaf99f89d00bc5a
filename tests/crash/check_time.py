"""Laws of real time: order of numbers, truth of reads, reasons of refusals."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from tests.crash.history import Done, History, Invocation, Refused
from tests.crash.laws import Law, Violation
from tests.crash.ledger_copy import ChangeRow, LedgerCopy

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Span:
    """One order's change on one account: not before `begun_s`, known to all at `known_s`."""

    begun_s: float
    known_s: float
    seq: int
    is_read: bool = False


def check_times(
    history: History, ledger: LedgerCopy, change_of_key: dict[str, ChangeRow]
) -> Iterator[Violation]:
    """Check order, reads and refusals, account by account."""
    spans = _list_spans(history, change_of_key)
    for account, found in spans.items():
        yield from _check_order(account, found)
    changes: defaultdict[int, list[ChangeRow]] = defaultdict(list)
    for change in ledger.changes:
        changes[change.account].append(change)
    yield from _check_reads(history, changes)
    yield from _check_reasons(history, ledger, changes, spans)


def _list_spans(history: History, change_of_key: dict[str, ChangeRow]) -> dict[int, list[_Span]]:
    spans: defaultdict[int, list[_Span]] = defaultdict(list)
    for key, invocations in history.by_key().items():
        change = change_of_key.get(key)
        if change is None:
            continue
        begun_s = min(one.invoked_s for one in invocations)
        known_s = min(
            (one.completed_s for one in invocations if isinstance(one.outcome, Done)), default=NEVER
        )
        spans[change.account].append(_Span(begun_s, known_s, change.seq))
        if change.contra is not None and change.contra_seq is not None:
            spans[change.contra].append(_Span(begun_s, known_s, change.contra_seq))
    for read in history.readings:
        spans[read.account].append(_Span(read.invoked_s, read.completed_s, read.seq, is_read=True))
    return spans


def _check_order(account: int, spans: list[_Span]) -> Iterator[Violation]:
    """What ended before something began has the smaller number; a read may show the same."""
    ended = sorted((span.known_s, span.seq) for span in spans)
    newest, place = 0, 0
    for span in sorted(spans, key=lambda one: one.begun_s):
        while place < len(ended) and ended[place][0] < span.begun_s:
            newest = max(newest, ended[place][1])
            place += 1
        if span.is_read and span.seq < newest:
            yield Violation(Law.REAL_TIME, f"read {span.seq} after {newest} was known", account)
        elif not span.is_read and span.seq <= newest:
            yield Violation(Law.REAL_TIME, f"{span.seq} began after {newest} was known", account)


def _check_reads(history: History, changes: dict[int, list[ChangeRow]]) -> Iterator[Violation]:
    for read in history.readings:
        known = changes.get(read.account, [])
        if read.seq > len(known):
            yield Violation(Law.READS, f"read {read.seq}, which is not there", read.account)
            continue
        actual = (0, 0)
        if read.seq:
            actual = (known[read.seq - 1].balance_after, known[read.seq - 1].held_after)
        if (read.posted, read.held) != actual:
            yield Violation(
                Law.READS,
                f"read {(read.posted, read.held)} at {read.seq}, it was {actual}",
                read.account,
            )


def _check_reasons(
    history: History,
    ledger: LedgerCopy,
    changes: dict[int, list[ChangeRow]],
    spans: dict[int, list[_Span]],
) -> Iterator[Violation]:
    """A charge or hold refused for want of money must have met a moment at which it was wanting."""
    refused: defaultdict[int, list[Invocation]] = defaultdict(list)
    for one in history.invocations:
        is_short = isinstance(one.outcome, Refused) and one.outcome.code == "insufficient_funds"
        if is_short and one.asked.kind in ("charge", "hold", "transfer"):
            refused[one.asked.account].append(one)
    for account, invocations in refused.items():
        floor = ledger.accounts[account].floor
        available = [0, *(c.balance_after - c.held_after for c in changes.get(account, []))]
        moments = _Moments(spans[account], len(available) - 1)
        for one in invocations:
            low, high = moments.between(one.invoked_s, one.completed_s)
            least = min(available[low : high + 1], default=0)
            if least - (one.asked.amount or 0) >= floor:
                yield Violation(
                    Law.REASONS,
                    f"{one.asked.amount} refused; from change {low} to {high} at least {least} were there",
                    account,
                    one.asked.key,
                )


class _Moments:
    """Which numbers of an account can have been its newest within a stretch of time."""

    def __init__(self, spans: list[_Span], last: int) -> None:
        ended = sorted((span.known_s, span.seq) for span in spans)
        begun = sorted((span.begun_s, span.seq) for span in spans if not span.is_read)
        self.ended_s = [known_s for known_s, _ in ended]
        self.newest = list(accumulate((seq for _, seq in ended), max, initial=0))
        self.begun_s = [begun_s for begun_s, _ in begun]
        later = accumulate((seq for _, seq in reversed(begun)), min, initial=last + 1)
        self.oldest_later = list(later)[::-1]

    def between(self, begin_s: float, end_s: float) -> tuple[int, int]:
        """Return the least and the greatest number that can have been the newest."""
        low = self.newest[bisect_left(self.ended_s, begin_s)]
        high = self.oldest_later[bisect_right(self.begun_s, end_s)] - 1
        return low, high
