"""Money is a whole number of a currency's minor units. Never a float, never `/ 100`."""

import re
from dataclasses import dataclass

from steelyard.core.errors import InvalidInput

LARGEST_MINOR = 2**53 - 1
"""The largest amount, in minor units: the last integer every JSON client reads exactly."""

_DECIMAL = re.compile(r"([+-]?)([0-9]{1,16})(?:\.([0-9]{1,6}))?")


@dataclass(frozen=True, slots=True)
class Currency:
    """An ISO 4217 currency: its code and how many digits its minor unit has."""

    code: str
    digits: int


@dataclass(frozen=True, slots=True)
class Money:
    """`minor` minor units of `currency`; 1050 of a two-digit currency is 10.50."""

    minor: int
    currency: Currency

    def __str__(self) -> str:
        return f"{format_major(self.minor, self.currency.digits)} {self.currency.code}"

    @classmethod
    def parse(cls, text: str, currency: Currency) -> "Money":
        """Read a decimal such as `10.50` or `-3`, exactly.

        Raises:
            InvalidInput: Not a decimal, more digits than the currency has, or beyond 2^53 - 1 minor units.
        """
        match = _DECIMAL.fullmatch(text)
        if match is None:
            raise InvalidInput(field="amount", problem=f"{text[:40]!r} is not a decimal number")
        sign, whole, part = match[1], match[2], (match[3] or "").rstrip("0")
        if len(part) > currency.digits:
            raise InvalidInput(
                field="amount",
                problem=f"{text[:40]!r} has more than {currency.digits} decimal digits",
            )
        minor = int(whole + part.ljust(currency.digits, "0"))
        if minor > LARGEST_MINOR:
            raise InvalidInput(
                field="amount", problem=f"{text[:40]!r} is beyond 2^53 - 1 minor units"
            )
        return cls(-minor if sign == "-" else minor, currency)


def format_major(minor: int, digits: int) -> str:
    """Write minor units as a decimal string with all of the currency's digits: 1050, 2 → `10.50`."""
    sign, text = ("-" if minor < 0 else ""), str(abs(minor)).rjust(digits + 1, "0")
    return sign + (text if digits == 0 else f"{text[:-digits]}.{text[-digits:]}")


def shortest_major(minor: int, digits: int) -> str:
    """Write minor units as the shortest JSON number of major units: 15050, 2 → `150.5`; 15000, 2 → `150`."""
    text = format_major(minor, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text
