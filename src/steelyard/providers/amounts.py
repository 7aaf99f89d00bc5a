"""Reads an amount as it stands in an answer, exactly: its text is never a float on the way."""

import re

import msgspec

from steelyard.core.errors import InvalidInput
from steelyard.core.money import Currency, Money

_PLAIN = re.compile(r"-?[0-9]{1,16}(?:\.[0-9]{1,6})?")


class UnreadableAmount(ValueError):
    """The text is no plain decimal of the currency; `args[0]` is a stable word for why."""


def parse_amount(token: bytes, currency: Currency) -> Money:
    """Read a JSON string or number such as `"10.50"` or `-3`.

    Digits beyond the currency's are taken only where they are zeros.

    Args:
        token: The value's bytes in the document, valid JSON.
        currency: What the amount is in.
    Raises:
        UnreadableAmount: Another kind of value, NaN, an exponent, separators, negative zero, more digits than
            the currency has, or beyond 2^53 - 1 minor units.
    """
    if token[:1] == b'"':
        try:
            text = msgspec.json.decode(token, type=str)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise UnreadableAmount("amount_text") from None
    else:
        text = token.decode("ascii", "replace")
    if not _PLAIN.fullmatch(text):
        raise UnreadableAmount("amount_text")
    try:
        money = Money.parse(text, currency)
    except InvalidInput:
        raise UnreadableAmount("amount_digits") from None
    if money.minor == 0 and text.startswith("-"):
        raise UnreadableAmount("amount_negative_zero")
    return money
