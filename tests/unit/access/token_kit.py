"""Keys, tokens and a verifier to try them on."""

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.key_sets import FixedKeys, KeySet
from steelyard.access.tokens import TokenRules, TokenVerifier, VerifiedToken
from steelyard.testing.clock import FrozenClock

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def claims(**changes: Any) -> dict[str, Any]:
    """Claims that are taken; a change to None leaves the claim out."""
    whole = {"sub": "42", "exp": NOW.timestamp() + 60, "iat": NOW.timestamp(), **changes}
    return {name: value for name, value in whole.items() if value is not None}


def signed(
    payload: Any, *, key: Any = SECRET, algorithm: str = "HS256", headers: Any = None
) -> str:
    """A token with any payload at all, signed properly."""
    text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return jwt.PyJWS().encode(text, key, algorithm=algorithm, headers=headers)


def assembled(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (json.dumps(header).encode(), json.dumps(payload).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@dataclass
class Trial:
    """A verifier with a clock that stands still."""

    rules: TokenRules = field(default_factory=TokenRules)
    keys: KeySet = field(default_factory=lambda: FixedKeys((SECRET,)))
    clock: FrozenClock = field(default_factory=lambda: FrozenClock(NOW))

    @property
    def verifier(self) -> TokenVerifier:
        return TokenVerifier(self.rules, self.keys, self.clock)

    async def accept(self, token: str) -> VerifiedToken:
        return await self.verifier.verify(token)

    async def refuse(self, token: str) -> Refusal:
        """Return why the token is refused."""
        try:
            accepted = await self.verifier.verify(token)
        except Unauthenticated as refused:
            return refused.reason
        raise AssertionError(f"it was accepted: {accepted}")

    def wait(self, seconds: float) -> None:
        self.clock.move(timedelta(seconds=seconds))
