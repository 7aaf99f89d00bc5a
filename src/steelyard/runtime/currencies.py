"""ISO 4217, from the `iso4217` package: which currencies exist and how many digits they have."""

from functools import lru_cache

from iso4217 import Currency as IsoCurrency

from steelyard.core.errors import InvalidInput
from steelyard.core.money import Currency


@lru_cache(maxsize=512)
def find_currency(code: str) -> Currency:
    """Return the currency with this three-letter code.

    Raises:
        InvalidInput: There is none, or it is not money with a minor unit (gold, test codes).
    """
    try:
        found = IsoCurrency(code)
    except ValueError:
        raise InvalidInput(
            field="currency", problem=f"{code[:8]!r} is not an ISO 4217 currency code"
        ) from None
    if found.exponent is None:
        raise InvalidInput(field="currency", problem=f"{code} has no minor unit")
    return Currency(found.code, found.exponent)
