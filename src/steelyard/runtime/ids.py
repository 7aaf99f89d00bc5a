"""Real randomness for identifiers."""

import secrets


class RandomIds:
    """Identifiers from the system's random source."""

    def new_id(self) -> str:
        """Return 128 random bits in hexadecimal."""
        return secrets.token_hex(16)
