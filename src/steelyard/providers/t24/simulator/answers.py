"""Writes what the bank would say, in the words of each dialect."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from steelyard.core.money import format_major
from steelyard.providers.contract import BalanceKind
from steelyard.providers.t24.simulator.books import SimulatedAccount
from steelyard.providers.t24.simulator.faults import Fault

JSON_TYPE: Final = "application/json"

IRIS_FIELDS: Final[Mapping[str, BalanceKind]] = {
    "workingBalance": BalanceKind.WORKING,
    "ledgerBalance": BalanceKind.LEDGER,
    "clearedBalance": BalanceKind.CLEARED,
    "lockedAmount": BalanceKind.LOCKED,
    "useableBalance": BalanceKind.USEABLE,
}
MIDDLEWARE_FIELDS: Final[Mapping[str, BalanceKind]] = {
    "workingBalance": BalanceKind.WORKING,
    "availableBalance": BalanceKind.AVAILABLE,
    "clearedBalance": BalanceKind.CLEARED,
    "onlineActualBalance": BalanceKind.ONLINE_ACTUAL,
}

_BAD_AMOUNTS: Final[Mapping[Fault, str]] = {
    Fault.NOT_A_NUMBER: '"NaN"',
    Fault.NEGATIVE_ZERO: '"-0.00"',
    Fault.EXPONENT: "1.5e3",
    Fault.SEPARATORS: '"1,500.00"',
    Fault.EXTRA_DIGITS: '"10.00001"',
    Fault.HUGE: '"90071992547409920000"',
    Fault.NO_VALUE: "null",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back, and how badly.

    Args:
        delay_s: Before the first byte.
        cut_at: Bytes of the body after which the connection ends; None: all of it is sent.
        gap_s: Between two bytes of the body; 0: all at once.
        is_reset: Nothing goes back: the connection is reset.
        is_hanging: Nothing goes back until the client leaves.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0
    cut_at: int | None = None
    gap_s: float = 0.0
    is_reset: bool = False
    is_hanging: bool = False


@dataclass(frozen=True, slots=True)
class Manner:
    """How amounts are written.

    Args:
        is_number: As JSON numbers instead of strings, where the dialect has both.
        bad: A fault of the values, or None.
    """

    is_number: bool = False
    bad: Fault | None = None

    def amount(self, minor: int, digits: int) -> str:
        """Return the JSON token of an amount."""
        if self.bad is not None and self.bad in _BAD_AMOUNTS:
            return _BAD_AMOUNTS[self.bad]
        text = format_major(minor, digits)
        return text if self.is_number else f'"{text}"'


def json_reply(text: str, *, status: int = 200) -> Reply:
    """Return a document as an answer."""
    return Reply(status, {"Content-Type": JSON_TYPE}, text.encode())


def bearer_reply(account: SimulatedAccount, manner: Manner) -> Reply:
    """Return the available balance as the reference's endpoint has it."""
    token = manner.amount(account.truth()[BalanceKind.AVAILABLE], account.currency.digits)
    parts = [f'"balance":{token}']
    if manner.bad is Fault.TWICE:
        parts.append(f'"balance":{token}')
    if manner.bad is Fault.OTHER_CURRENCY:
        parts.append('"currency":"XXX"')
    return json_reply("{" + ",".join(parts) + "}")


def middleware_reply(account: SimulatedAccount, manner: Manner) -> Reply:
    """Return one row without a number, as the middleware does."""
    row = _row(account, MIDDLEWARE_FIELDS, manner)
    return json_reply(f'{{"header":{_header(1, 1, 1)},"body":[{row}]}}')


def iris_reply(
    accounts: Sequence[SimulatedAccount], manner: Manner, *, start: int, total: int
) -> Reply:
    """Return one page of rows; `start` counts from 1."""
    rows = []
    for account in accounts:
        number = "9" * 10 if manner.bad is Fault.OTHER_ACCOUNT else account.number
        rows.append(_row(account, IRIS_FIELDS, manner, number=number))
    return json_reply(f'{{"header":{_header(start, len(rows), total)},"body":[{",".join(rows)}]}}')


def empty_reply() -> Reply:
    """Return what T24 says of an account it does not know: success, and an empty body."""
    return json_reply(f'{{"header":{_header(1, 0, 0)},"body":[]}}')


def failure_reply(status: int, code: str, kind: str) -> Reply:
    """Return an error in the words of IRIS: `Business` or `System`."""
    error = {"code": code, "message": "simulated", "type": kind}
    return json_reply(json.dumps({"header": {"status": "failed"}, "error": error}), status=status)


def _header(start: int, rows: int, total: int) -> str:
    audit = {"T24_time": 12, "responseParse_time": 1, "requestParse_time": 1, "versionNumber": "1"}
    return json.dumps(
        {
            "audit": audit,
            "status": "success",
            "page_start": start,
            "page_size": rows,
            "total_size": total,
            "page_token": "20261121-1",
        }
    )


def _row(
    account: SimulatedAccount,
    fields: Mapping[str, BalanceKind],
    manner: Manner,
    *,
    number: str | None = None,
) -> str:
    currency = "XXX" if manner.bad is Fault.OTHER_CURRENCY else account.currency.code
    truth, digits = account.truth(), account.currency.digits
    parts = [] if number is None else [f'"accountId":{json.dumps(number)}']
    parts.append(f'"currencyId":"{currency}"')
    parts += [f'"{name}":{manner.amount(truth[kind], digits)}' for name, kind in fields.items()]
    if manner.bad is Fault.TWICE:
        parts.append(parts[-1])
    return "{" + ",".join(parts) + "}"
