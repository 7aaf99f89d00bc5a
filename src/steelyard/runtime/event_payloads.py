"""Balance events as clients read them: the payloads of RT2 and RT4, written once for channel and sockets.

Numbers are major units in their shortest form (150.5), made from integers. Every value written here is made of digits,
letters of a code or a time, so no text needs escaping; a user's id, which does, is written where it is needed.
"""

from datetime import datetime

from steelyard.core.clock import format_utc
from steelyard.core.money import shortest_major
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.currencies import find_currency

_TRANSACTION_TYPES = {"capture": "charge", "expire": "release"}
_COMPLETES_NOTHING = frozenset(("hold", "release", "expire", "sync"))


def transaction_type_of(kind: str) -> str:
    """Return the word clients know for a kind of change: a captured hold is a charge, an expired one a release."""
    return _TRANSACTION_TYPES.get(kind, kind)


def completes_transaction(event: BalanceEvent) -> bool:
    """Say whether the step is told as `transaction_completed` too: holds, their releases and readings of others are not."""
    return event.seq is not None and event.kind not in _COMPLETES_NOTHING


def updated_payload(
    event: BalanceEvent, *, previous: int, prev_seq: int, is_replayed: bool = False
) -> str:
    """Return the JSON of `balance_updated`.

    Args:
        event: The newest step it tells of.
        previous: Available balance before the first step it tells of, minor units.
        prev_seq: `seq` before that step; with one step, one less than its own.
        is_replayed: The client missed it.
    """
    assert event.seq is not None, "a refusal changes no balance"
    digits = find_currency(event.currency).digits
    return (
        f'{{"newBalance":{shortest_major(event.available, digits)},'
        f'"previousBalance":{shortest_major(previous, digits)},'
        f"{_transaction(event, digits)},{_place(event)},"
        f'"seq":{event.seq},"prevSeq":{prev_seq},"posted":{shortest_major(event.posted, digits)},'
        f'"held":{shortest_major(event.held, digits)}{_REPLAYED if is_replayed else ""}}}'
    )


def completed_payload(event: BalanceEvent, *, is_replayed: bool = False) -> str:
    """Return the JSON of `transaction_completed`."""
    digits = find_currency(event.currency).digits
    return (
        f"{{{_transaction(event, digits)},"
        f'"newBalance":{shortest_major(event.available, digits)},{_place(event)},'
        f'"seq":{event.seq}{_REPLAYED if is_replayed else ""}}}'
    )


def insufficient_payload(event: BalanceEvent) -> str:
    """Return the JSON of `balance_insufficient`: what was asked for, what there is, what is missing."""
    digits, required = find_currency(event.currency).digits, event.required or 0
    shortfall = max(0, required - event.available)
    return (
        f'{{"requiredAmount":{shortest_major(required, digits)},'
        f'"currentBalance":{shortest_major(event.available, digits)},'
        f'"shortfall":{shortest_major(shortfall, digits)},'
        f'"timestamp":"{_moment(event.at)}",{_place(event)}}}'
    )


def failed_payload(event: BalanceEvent, transaction: str) -> str:
    """Return the JSON of `transaction_failed`; `transaction` is the refused top-up's id, of letters and digits."""
    return (
        f'{{"transactionId":"{transaction}","transactionType":"{transaction_type_of(event.kind)}",'
        f'"timestamp":"{_moment(event.at)}",{_place(event)}}}'
    )


def balance_payload(
    event_fields: tuple[int, int, int], *, account: str, currency: str, extra: str = ""
) -> str:
    """Return the JSON of `balance_initial`.

    Args:
        event_fields: Posted and held, minor units, and `seq`.
        account: The account's id.
        currency: Its ISO 4217 code.
        extra: More members, each beginning with a comma.
    """
    posted, held, seq = event_fields
    digits = find_currency(currency).digits
    return (
        f'{{"balance":{shortest_major(posted - held, digits)},"accountId":"{account}","currency":"{currency}",'
        f'"seq":{seq},"posted":{shortest_major(posted, digits)},"held":{shortest_major(held, digits)}{extra}}}'
    )


_REPLAYED = ',"replayed":true'


def _transaction(event: BalanceEvent, digits: int) -> str:
    identifier = "null" if event.transaction is None else f'"{event.transaction}"'
    return (
        f'"transactionId":{identifier},"transactionType":"{transaction_type_of(event.kind)}",'
        f'"amount":{shortest_major(event.amount, digits)},"timestamp":"{_moment(event.at)}"'
    )


def _place(event: BalanceEvent) -> str:
    return f'"accountId":"{event.account}","currency":"{event.currency}"'


def _moment(at: datetime) -> str:
    return format_utc(at)
