"""The rule for `Idempotency-Key`."""

from steelyard.core.errors import InvalidInput
from steelyard.runtime.problems import IdempotencyKeyRequired

KEY_MAX = 255
OWN_PREFIX = "steelyard/"


def check_key(given: str | None) -> str:
    """Return a caller's key: 1 to 255 printable ASCII characters, not of our own kind.

    Raises:
        IdempotencyKeyRequired: There is none.
        InvalidInput: It is not such a text.
    """
    if not given:
        raise IdempotencyKeyRequired
    if len(given) > KEY_MAX or not given.isascii() or not given.isprintable():
        raise InvalidInput(
            field="Idempotency-Key", problem="must be 1 to 255 printable ASCII characters"
        )
    if given.startswith(OWN_PREFIX):
        raise InvalidInput(field="Idempotency-Key", problem=f"must not begin with {OWN_PREFIX!r}")
    return given
