"""Reads T24's answers: every amount as its text, every row whole or not at all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from steelyard.core.errors import SteelyardError
from steelyard.providers.amounts import UnreadableAmount, parse_amount
from steelyard.providers.contract import AccountReading, BalanceKind, ReportedBalance, TargetAccount
from steelyard.runtime.strict_json import parse_json

_ABSENT: Final = frozenset({b"", b"null", b'""'})


class UnreadableAnswer(ValueError):
    """The body is not what the dialect promises; `args[0]` is a stable word for why."""


@dataclass(frozen=True, slots=True)
class Row:
    """What an answer says of one account.

    Args:
        number: The account, where the answer names it.
        currency: ISO code, where the answer has it.
        amounts: Each value's bytes as they stand in the document; empty where it is absent.
    """

    number: str | None = field(repr=False)
    currency: str | None
    amounts: Mapping[BalanceKind, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page of rows stands in all of them, as far as the answer says."""

    start: int | None = None
    size: int | None = None
    total: int | None = None
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of an answer.

    Args:
        failure: `Business` or `System`, or another word, where the answer tells of an error instead of rows.
        server_s: Seconds that T24 says it took.
    """

    rows: tuple[Row, ...]
    page: Page = Page()
    failure: str | None = None
    server_s: float | None = None


class _BearerAnswer(msgspec.Struct):
    balance: msgspec.Raw = msgspec.Raw()
    available_balance: msgspec.Raw = msgspec.Raw()
    currency: str | None = None


class _Holding(msgspec.Struct, rename="camel"):
    account_id: str | None = None
    currency_id: str | None = None
    available_balance: msgspec.Raw = msgspec.Raw()
    working_balance: msgspec.Raw = msgspec.Raw()
    ledger_balance: msgspec.Raw = msgspec.Raw()
    cleared_balance: msgspec.Raw = msgspec.Raw()
    locked_amount: msgspec.Raw = msgspec.Raw()
    useable_balance: msgspec.Raw = msgspec.Raw()
    online_actual_balance: msgspec.Raw = msgspec.Raw()


class _Audit(msgspec.Struct):
    T24_time: int | float | None = None


class _Header(msgspec.Struct):
    audit: _Audit | None = None
    page_start: int | None = None
    page_size: int | None = None
    total_size: int | None = None
    page_token: str | None = None


class _Failure(msgspec.Struct):
    type: str | None = None


class _HoldingsAnswer(msgspec.Struct):
    header: _Header | None = None
    body: list[_Holding] | None = None
    error: _Failure | None = None


_bearer: Final = msgspec.json.Decoder(_BearerAnswer)
_holdings: Final = msgspec.json.Decoder(_HoldingsAnswer)


def read_bearer(body: bytes) -> Rows:
    """Read `{"balance": …}`, where `available_balance` may stand beside it or alone.

    A `balance` alone is the available one; beside `available_balance` it is the booked one.

    Raises:
        UnreadableAnswer: It is no such document.
    """
    _check_json(body)
    try:
        answer = _bearer.decode(body)
    except msgspec.MsgspecError:
        raise UnreadableAnswer("shape") from None
    alone, available = bytes(answer.balance), bytes(answer.available_balance)
    if available in _ABSENT:
        amounts = {BalanceKind.AVAILABLE: alone}
    else:
        amounts = {BalanceKind.AVAILABLE: available, BalanceKind.LEDGER: alone}
    return Rows((Row(None, answer.currency, amounts),))


def read_holdings(body: bytes) -> Rows:
    """Read `{"header": …, "body": [row, …]}`, or its `error`. An empty `body` is no error: nothing matched.

    Raises:
        UnreadableAnswer: It is no such document.
    """
    _check_json(body)
    try:
        answer = _holdings.decode(body)
    except msgspec.MsgspecError:
        raise UnreadableAnswer("shape") from None
    if answer.error is not None:
        return Rows((), failure=answer.error.type or "unknown")
    if answer.body is None:
        raise UnreadableAnswer("no_body")
    header = answer.header or _Header()
    return Rows(
        tuple(_row(one) for one in answer.body),
        Page(header.page_start, header.page_size, header.total_size, header.page_token),
        server_s=_server_s(header.audit),
    )


def read_account(row: Row, account: TargetAccount, *, as_of: datetime) -> AccountReading:
    """Return every balance of one row, or none.

    Raises:
        UnreadableAnswer: Another currency than ours, an amount that cannot be believed, or no amount at all.
    """
    if row.currency is not None and row.currency != account.currency.code:
        raise UnreadableAnswer("currency")
    balances = []
    for kind, token in row.amounts.items():
        if token in _ABSENT:
            continue
        try:
            money = parse_amount(token, account.currency)
        except UnreadableAmount as error:
            raise UnreadableAnswer(str(error)) from None
        balances.append(ReportedBalance(kind, money, as_of))
    if not balances:
        raise UnreadableAnswer("no_balance")
    return AccountReading(account, tuple(balances))


def _check_json(body: bytes) -> None:
    """Refuse what has two meanings: a key given twice, NaN, bytes that are no text."""
    if not body.strip():
        raise UnreadableAnswer("empty")
    try:
        parse_json(body)
    except SteelyardError:
        raise UnreadableAnswer("json") from None


def _row(holding: _Holding) -> Row:
    return Row(
        holding.account_id,
        holding.currency_id or None,
        {
            BalanceKind.AVAILABLE: bytes(holding.available_balance),
            BalanceKind.WORKING: bytes(holding.working_balance),
            BalanceKind.LEDGER: bytes(holding.ledger_balance),
            BalanceKind.CLEARED: bytes(holding.cleared_balance),
            BalanceKind.LOCKED: bytes(holding.locked_amount),
            BalanceKind.USEABLE: bytes(holding.useable_balance),
            BalanceKind.ONLINE_ACTUAL: bytes(holding.online_actual_balance),
        },
    )


def _server_s(audit: _Audit | None) -> float | None:
    took_ms = audit.T24_time if audit is not None else None
    if took_ms is None or not math.isfinite(took_ms) or took_ms < 0:
        return None
    return took_ms * 0.001
