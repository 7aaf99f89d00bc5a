"""Pages of a list: the next one begins after a place that only we can read."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Final

from steelyard.core.errors import InvalidInput

PAGE_SIZE: Final = 50
PAGE_SIZE_MAX: Final = 200
_CURSOR_MAX = 1_024


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: after `key`, in the list named `of`."""

    of: str
    key: str


def write_cursor(place: Place) -> str:
    """Return the place as opaque text."""
    text = json.dumps([place.of, place.key], separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def read_cursor(cursor: str | None, *, of: str) -> str | None:
    """Return the key a cursor of the list `of` stands for; None for the first page.

    Raises:
        InvalidInput: It is no cursor of this list.
    """
    if cursor is None:
        return None
    problem = InvalidInput(field="cursor", problem="it is no cursor of this list")
    if not cursor.isascii() or len(cursor) > _CURSOR_MAX:
        raise problem
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        read = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise problem from error
    match read:
        case [str(list_name), str(key)] if list_name == of and key.isprintable():
            return key
    raise problem
