"""Turns an `Authorization` header into a principal, or refuses. On the path of every charge."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steelyard.access import store
from steelyard.access.api_keys import KEY_PREFIX, READ_DEADLINE_S, KeyChecker
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import Authentication, Principal, TenantStatus, UserStatus
from steelyard.access.recent import Recent
from steelyard.access.tokens import TOKEN_BYTES_MAX, TokenVerifier, VerifiedToken
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database

VERIFIED_S: Final = 60.0
"""How long a signature that held is not checked again; `exp` and standing are, at every request."""


@dataclass(slots=True)
class Authenticator:
    """Knows callers by token or API key.

    What the database says of tenants, users and keys is kept for at most 5 s: a revocation or suspension takes
    effect within 5 s in every process. At most 10,000 of each are kept.
    """

    database: Database
    clock: Clock
    tokens: TokenVerifier
    _keys: KeyChecker
    _verified: Recent[bytes, VerifiedToken]
    _standings: Recent[tuple[TenantId, UserId], store.Standing | None]

    @classmethod
    def build(cls, database: Database, tokens: TokenVerifier, clock: Clock) -> "Authenticator":
        """Return an authenticator that remembers nothing yet."""
        keys = KeyChecker(database, clock, Recent(clock))
        verified: Recent[bytes, VerifiedToken] = Recent(clock, VERIFIED_S)
        return cls(database, clock, tokens, keys, verified, Recent(clock))

    async def authenticate(self, authorization_header: str | None) -> Principal:
        """Return who asks.

        Args:
            authorization_header: `Bearer <token>` or `Bearer sk_…`; None where there was none.
        Raises:
            Unauthenticated: No, bad, expired or revoked token or key; `reason` says which for logs.
            DatabaseUnavailable: Standing could not be read; nobody is let in unchecked.
        """
        scheme, _, credential = (authorization_header or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated(Refusal.MISSING)
        return (await self.check_credential(credential.strip(" "))).principal

    async def check_credential(self, credential: str) -> Authentication:
        """Return whose token or API key this is and when it ends; what a socket asks.

        Raises:
            Unauthenticated: As `authenticate`.
            DatabaseUnavailable: As `authenticate`.
        """
        if not credential or not credential.isascii():
            raise Unauthenticated(Refusal.MALFORMED if credential else Refusal.MISSING)
        if len(credential) > TOKEN_BYTES_MAX:
            raise Unauthenticated(Refusal.TOO_LARGE)
        if credential.startswith(KEY_PREFIX):
            return await self._keys.check(credential)
        return await self._check_token(credential)

    async def refresh_standings(self, callers: Sequence[tuple[TenantId, UserId]]) -> None:
        """Ask the database about many callers in one call, so that checking their tokens next asks nobody.

        Raises:
            DatabaseUnavailable: It did not answer; what was known stays for its time.
        """
        if not callers:
            return
        found = await store.load_standings(self.database, callers)
        for caller in callers:
            self._standings.keep(caller, found.get(caller))

    def forget_user(self, tenant: TenantId, user: UserId) -> None:
        """Ask the database again for the user's next token: its standing has just changed here."""
        self._standings.forget((tenant, user))

    def forget_key(self, key_id: str) -> None:
        """Ask the database again for this key: it has just changed here."""
        self._keys.known.forget(key_id)

    async def _check_token(self, token: str) -> Authentication:
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.peek(digest)
        if known is None:
            verified = await self.tokens.verify(token)
            self._verified.keep(digest, verified)
        else:
            verified = known[0]
            if self.clock.now() >= verified.expires_at + self.tokens.rules.leeway:
                raise Unauthenticated(Refusal.EXPIRED)
        await self._check_standing(verified)
        return Authentication(verified.principal, verified.expires_at)

    async def _check_standing(self, verified: VerifiedToken) -> None:
        tenant, user = verified.principal.tenant, verified.principal.user
        assert user is not None, "a token names a user"
        found = self._standings.peek((tenant, user))
        if found is None:
            standing = await self._standings.get(
                (tenant, user), lambda: self._read_standing(tenant, user)
            )
        else:
            standing = found[0]
        check_standing(verified, standing)

    async def _read_standing(self, tenant: TenantId, user: UserId) -> store.Standing | None:
        try:
            async with asyncio.timeout(READ_DEADLINE_S), self.database.unit_of_work(tenant) as uow:
                return await store.find_standing(uow, user)
        except TimeoutError:
            raise DatabaseUnavailable(doing="checking who asks") from None


def check_standing(verified: VerifiedToken, standing: store.Standing | None) -> None:
    """Refuse a token whose tenant is unknown or suspended, whose user is inactive, or that was revoked.

    A user that has no row yet is let in: it owns nothing. A token without `iat` cannot show that it was
    issued after a revocation and is refused after one.

    Raises:
        Unauthenticated: The token no longer counts.
    """
    if standing is None or standing.tenant_status is not TenantStatus.ACTIVE:
        raise Unauthenticated(Refusal.TENANT)
    if standing.user_status is UserStatus.INACTIVE:
        raise Unauthenticated(Refusal.REVOKED)
    since, issued_at = standing.tokens_valid_from, verified.issued_at
    if since is not None and (issued_at is None or issued_at < since):
        raise Unauthenticated(Refusal.REVOKED)
