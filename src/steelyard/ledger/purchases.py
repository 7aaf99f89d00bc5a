"""Reads lines of card purchases and gives each its own identity. No files, no database.

A line's identity is (source, content, occurrence): which export it came in, what it says, and how
many lines before it in the same export say the same. So a file can be imported again, or again
with lines added, and every line counts once; two purchases that look alike are still two.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from steelyard.core.errors import InvalidInput
from steelyard.core.money import Currency, Money

COLUMNS = ("date", "card", "merchant", "amount_gbp")
CURRENCY_CODE = "GBP"
LINE_BYTES_MAX = 16_384
MERCHANT_CHARACTERS_MAX = 200
SOURCE_CHARACTERS_MAX = 100
CONTENT_HASH_DIGITS = 32

_CARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SOURCE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9 ._()+-]{{0,{SOURCE_CHARACTERS_MAX - 1}}}")

CountOccurrence = Callable[[bytes], int]
"""Takes a content hash and returns how often it has been given by now, this time included."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One purchase (amount > 0) or money given back (amount < 0); never zero."""

    line: int
    on: date
    card: str
    merchant: str
    amount: Money
    key: str
    """Idempotency key made from the line's identity."""


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that was not taken: `line` counts from 1 with the header; `field` is a column or `line`."""

    line: int
    field: str
    reason: str


def check_source(source: str) -> str:
    """Return a source's name if it may stand in keys.

    Raises:
        InvalidInput: It is empty, long, or holds other than letters, digits, spaces and `._()+-`.
    """
    if not _SOURCE.fullmatch(source):
        raise InvalidInput(
            field="source",
            problem=f"{source[:SOURCE_CHARACTERS_MAX]!r} is not 1 to {SOURCE_CHARACTERS_MAX} letters, digits, "
            "spaces and ._()+-, beginning with a letter or digit; name the source with --source",
        )
    return source


def read_purchases(
    lines: Iterable[bytes], source: str, currency: Currency, *, count: CountOccurrence
) -> Iterator[Purchase | RefusedLine]:
    """Read purchases line by line, in order; hold one line at a time.

    Args:
        lines: Lines with or without their ends, the header first. A line longer than 16,384 bytes
            may be given cut: it is refused.
        source: Name of the export, part of every key.
        currency: Of all amounts.
        count: Counts occurrences of a content in this export; a fresh one for each reading.
    Raises:
        InvalidInput: The header is not `date,card,merchant,amount_gbp`.
    """
    check_source(source)
    numbered = enumerate(lines, start=1)
    _check_header(next(numbered, (1, b""))[1])
    for number, raw in numbered:
        if not raw.strip(b"\r\n"):
            continue
        try:
            yield _read_line(number, raw, source, currency, count=count)
        except InvalidInput as error:
            yield RefusedLine(number, error.field, error.problem)


def _check_header(raw: bytes) -> None:
    names = raw.removeprefix(b"\xef\xbb\xbf").strip().split(b",")
    if tuple(name.strip(b' "').decode("utf-8", "replace") for name in names) != COLUMNS:
        raise InvalidInput(
            field="header",
            problem=f"the first line must be {','.join(COLUMNS)}, it is {raw[:80]!r}",
        )


def _read_line(
    number: int, raw: bytes, source: str, currency: Currency, *, count: CountOccurrence
) -> Purchase:
    fields = _split(raw)
    on, card, merchant, amount = fields
    content = hashlib.sha256("\x1f".join(fields).encode()).digest()
    purchase = Purchase(
        line=number,
        on=_read_date(on),
        card=_read_card(card),
        merchant=_read_merchant(merchant),
        amount=_read_amount(amount, currency),
        key="",
    )
    # Only lines that are taken are counted, and last: a refused line never moves another's number.
    occurrence = count(content)
    key = f"import/{source}/{content.hex()[:CONTENT_HASH_DIGITS]}/{occurrence}"
    return Purchase(number, purchase.on, purchase.card, purchase.merchant, purchase.amount, key=key)


def _split(raw: bytes) -> list[str]:
    """Split one line into its four fields; a quoted field does not go on in the next line."""
    if len(raw) > LINE_BYTES_MAX:
        raise InvalidInput(field="line", problem=f"it is longer than {LINE_BYTES_MAX} bytes")
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(field="line", problem=f"byte {error.start + 1} is not UTF-8") from None
    if not text.isprintable():
        raise InvalidInput(
            field="line", problem="it holds a control or other unprintable character"
        )
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidInput(field="line", problem=f"its quotes do not match ({error})") from None
    fields = [field.strip() for field in rows[0]] if rows else []
    if len(fields) != len(COLUMNS):
        raise InvalidInput(
            field="line", problem=f"it has {len(fields)} columns, not {len(COLUMNS)}"
        )
    return fields


def _read_date(text: str) -> date:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidInput(field="date", problem=f"{text[:40]!r} is not a date such as 2014-10-31")


def _read_card(text: str) -> str:
    if not _CARD.fullmatch(text):
        raise InvalidInput(
            field="card", problem=f"{text[:40]!r} is not 1 to 64 letters, digits and ._-"
        )
    return text


def _read_merchant(text: str) -> str:
    if not 1 <= len(text) <= MERCHANT_CHARACTERS_MAX:
        raise InvalidInput(
            field="merchant",
            problem=f"it has {len(text)} characters, not 1 to {MERCHANT_CHARACTERS_MAX}",
        )
    return text


def _read_amount(text: str, currency: Currency) -> Money:
    try:
        amount = Money.parse(text, currency)
    except InvalidInput as error:
        raise InvalidInput(field="amount_gbp", problem=error.problem) from None
    if amount.minor == 0:
        raise InvalidInput(field="amount_gbp", problem="it is zero")
    return amount
