"""Laws of the ledger alone: steps, floors, totals, holds, reversals, books and the chain."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from struct import pack

from tests.crash.laws import Law, Violation
from tests.crash.ledger_copy import AccountRow, ChangeRow, LedgerCopy, postings_in

SPENT = ("charge", "booking", "capture")
RECHARGED = ("recharge", "topup")
BIGINT_OID = 20
SECONDS_1970_TO_2000 = 946_684_800
ENDS = {"capture": "captured", "release": "released", "expire": "expired"}


def check_accounts(ledger: LedgerCopy) -> Iterator[Violation]:
    """Check every account by its changes, then all of them together."""
    by_account: dict[int, list[ChangeRow]] = {number: [] for number in ledger.accounts}
    for change in ledger.changes:
        by_account.setdefault(change.account, []).append(change)
    for number, changes in by_account.items():
        account = ledger.accounts.get(number)
        if account is None:
            yield Violation(Law.STANDING, "changes of an account that is not there", number)
            continue
        yield from _check_steps(account, changes)
        yield from _check_standing(account, changes)
        yield from _check_reversals(account, changes)
    yield from _check_holds(ledger)
    yield from _check_books(ledger)


def chain_hash(previous: bytes, change: ChangeRow) -> bytes:
    """Return the hash of a change, from the byte format of `0001_chain.sql` and nothing else."""
    numbers = (
        change.account,
        change.seq,
        change.amount,
        change.balance_after,
        change.posted_us - SECONDS_1970_TO_2000 * 1_000_000,
    )
    others = (
        change.contra,
        change.contra_seq,
        change.target,
        change.held_amount,
        change.held_after,
    )
    is_plain = (change.contra or 0) > 0 and others[1:] == (None, None, 0, 0)
    beside = pack(">q", change.contra) if is_plain else b"\xff" + _array_of(others)
    details = "" if change.details is None else f"\0{change.details}"
    text = f"{change.tenant}|{change.kind}{details}"
    return sha256(previous + pack(">5q", *numbers) + beside + text.encode()).digest()


def _array_of(numbers: Sequence[int | None]) -> bytes:
    """Return an array of bigint, from 1 on, in PostgreSQL's binary format."""
    header = pack(">5i", 1, None in numbers, BIGINT_OID, len(numbers), 1)
    return header + b"".join(
        pack(">i", -1) if number is None else pack(">iq", 8, number) for number in numbers
    )


def _check_steps(account: AccountRow, changes: list[ChangeRow]) -> Iterator[Violation]:
    balance = held = 0
    head = bytes(32)
    for number, change in enumerate(changes, start=1):
        balance, held = balance + change.amount, held + change.held_amount
        if change.seq != number:
            yield Violation(Law.STEPS, f"change {number} is numbered {change.seq}", account.id)
            return
        if (change.balance_after, change.held_after) != (balance, held) or held < 0:
            yield Violation(
                Law.STEPS,
                f"after change {number}: {change.balance_after} with {change.held_after} held, "
                f"the steps give {balance} and {held}",
                account.id,
            )
            return
        if account.kind == "held" and balance - held < account.floor:
            yield Violation(
                Law.FLOOR, f"{balance - held} available after change {number}", account.id
            )
        head = chain_hash(head, change)
        if head != change.hash:
            yield Violation(Law.CHAIN, f"change {number} does not fit its hash", account.id)
            head = change.hash
    if head != account.head:
        yield Violation(Law.CHAIN, "the account's head is not its last change's hash", account.id)


def _check_standing(account: AccountRow, changes: list[ChangeRow]) -> Iterator[Violation]:
    kinds = {change.seq: change.kind for change in changes}
    recharged = spent = 0
    for change in changes:
        kind = kinds.get(change.target or 0) if change.kind == "reversal" else change.kind
        if kind in RECHARGED:
            recharged += change.amount
        elif kind in SPENT or change.kind == "refund":
            spent -= change.amount
    expected = (
        sum(change.amount for change in changes),
        sum(change.held_amount for change in changes),
        len(changes),
    )
    stored = (account.posted, account.held, account.seq)
    if stored != expected:
        yield Violation(Law.STANDING, f"stored {stored}, the changes give {expected}", account.id)
    if account.kind == "held" and (account.total_recharged, account.total_spent) != (
        recharged,
        spent,
    ):
        yield Violation(
            Law.STANDING,
            f"stored totals {account.total_recharged} and {account.total_spent}, "
            f"the changes give {recharged} and {spent}",
            account.id,
        )
    if account.suspended is not None:
        yield Violation(Law.STANDING, f"suspended: {account.suspended}", account.id)


def _check_reversals(account: AccountRow, changes: list[ChangeRow]) -> Iterator[Violation]:
    whole = {change.seq: change.amount for change in changes}
    taken: defaultdict[int, int] = defaultdict(int)
    for change in changes:
        if change.kind == "reversal" and change.target is not None:
            taken[change.target] += change.amount
    for target, amount in taken.items():
        if target not in whole or whole[target] * amount > 0 or abs(amount) > abs(whole[target]):
            yield Violation(
                Law.REVERSALS,
                f"{amount} taken back of change {target}, which moved {whole.get(target)}",
                account.id,
            )


def _check_holds(ledger: LedgerCopy) -> Iterator[Violation]:
    ends: defaultdict[tuple[int, int], list[ChangeRow]] = defaultdict(list)
    begun: dict[tuple[int, int], ChangeRow] = {}
    for change in ledger.changes:
        if change.kind in ENDS:
            ends[change.account, change.target or 0].append(change)
        elif change.kind == "hold":
            begun[change.account, change.seq] = change
    held: defaultdict[int, int] = defaultdict(int)
    for hold in ledger.holds:
        place = (hold.account, hold.seq)
        start, end = begun.pop(place, None), ends.pop(place, [])
        if hold.status == "open":
            held[hold.account] += hold.amount
        expected = "open" if not end else ENDS[end[0].kind]
        captured = -end[0].amount if end and end[0].kind == "capture" else 0
        if start is None or start.held_amount != hold.amount or len(end) > 1:
            yield Violation(Law.HOLDS, f"hold {hold.seq} ended {len(end)} times", hold.account)
        elif hold.status != expected or hold.captured != captured or captured > hold.amount:
            yield Violation(
                Law.HOLDS,
                f"hold {hold.seq} is {hold.status}, its changes say {expected}",
                hold.account,
            )
        elif end and end[0].held_amount != -hold.amount:
            yield Violation(Law.HOLDS, f"hold {hold.seq} gave back another amount", hold.account)
    for account, seq in [*begun, *ends]:
        yield Violation(Law.HOLDS, f"there is no hold {seq}", account)
    for row in ledger.accounts.values():
        if row.held != held[row.id]:
            yield Violation(Law.HOLDS, f"{row.held} held, open holds are {held[row.id]}", row.id)


def _check_books(ledger: LedgerCopy) -> Iterator[Violation]:
    """At each commit all changes sum to zero, and each side of the books is what was posted against it."""
    commits: defaultdict[int, list[ChangeRow]] = defaultdict(list)
    for change in ledger.changes:
        commits[change.xid].append(change)
    for xid, changes in commits.items():
        total = sum(change.amount for change in changes)
        if total:
            yield Violation(Law.BOOKS, f"commit {xid} moved {total} out of nothing")
        sides: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        for change in changes:
            if change.kind == "batch":
                sides[change.account][0] += change.amount
                sides[change.account][1] -= postings_in(change)
            elif change.contra is not None and change.contra_seq is None:
                sides[change.contra][0] += change.amount
                sides[change.contra][1] += 1
        booked = {change.account for change in changes if change.kind == "batch"}
        for account, (amount, count) in sides.items():
            # Postings that cancel out within a batch leave its side without a change.
            if amount or (count and account in booked):
                yield Violation(
                    Law.BOOKS, f"commit {xid}: its side is off by {amount} in {count}", account
                )
    by_currency: defaultdict[str, int] = defaultdict(int)
    for row in ledger.accounts.values():
        by_currency[row.currency] += row.posted
    for currency, total in by_currency.items():
        if total:
            yield Violation(Law.BOOKS, f"all balances in {currency} sum to {total}")
