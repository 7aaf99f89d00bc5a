"""What a name that people read may hold: every script, no trickery."""

import unicodedata
from typing import Final

from steelyard.core.errors import InvalidInput

NAME_MAX: Final = 200

# Controls, halves of surrogate pairs, line and paragraph separators; joiners of scripts and emoji may stay.
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_name(name: str, *, field: str, least: int = 1) -> None:
    """Let a name of `least` to 200 characters pass.

    Raises:
        InvalidInput: It is shorter or longer, or holds control characters or ones that turn the direction of text.
    """
    is_clean = not any(
        letter in _DIRECTION_CONTROLS or unicodedata.category(letter) in _REFUSED_CATEGORIES
        for letter in name[: NAME_MAX + 1]
    )
    if not least <= len(name) <= NAME_MAX or not is_clean:
        raise InvalidInput(
            field=field,
            problem=f"it must be {least} to {NAME_MAX} characters, none of them a control",
        )
