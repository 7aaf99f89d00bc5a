"""API keys of programs: `sk_<id>_<secret>`, kept as a hash, shown once, ended by revoking or by time."""

import asyncio
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from steelyard.access import store
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import (
    KEY_SUBJECT,
    ApiKey,
    Authentication,
    Principal,
    Role,
    TenantStatus,
)
from steelyard.access.names import check_name
from steelyard.access.recent import Recent
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, InvalidInput, NotFound
from steelyard.runtime.database import Database, UnitOfWork

KEY_PREFIX: Final = "sk_"
KEY_ROLES: Final = frozenset({Role.SERVICE, Role.OPERATOR, Role.ADMIN})

READ_DEADLINE_S: Final = 1.0
"""Longest a caller's standing may take to read: a request has more to do within its own deadline."""

_KEY_ID = re.compile(r"[0-9a-f]{16}")
_KEY = re.compile(r"sk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """What a new key is for. A key without `expires_at` lasts until it is revoked."""

    name: str
    role: Role
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `text` holds the secret: it is shown now and can never be read again."""

    key: ApiKey
    text: str


async def create_api_key(
    uow: UnitOfWork, order: KeyOrder, *, created_by: str, now: datetime
) -> NewKey:
    """Make a key with a secret of 256 random bits; only the secret's SHA-256 is stored.

    Raises:
        InvalidInput: The name is not 1 to 200 characters, the role is not one of a program, or the end has passed.
    """
    check_name(order.name, field="name")
    if order.role not in KEY_ROLES:
        raise InvalidInput(field="role", problem="a key is of role service, operator or admin")
    if order.expires_at is not None and order.expires_at <= now:
        raise InvalidInput(field="expires_at", problem="it has passed already")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    key = ApiKey(
        uow.tenant, key_id, order.name, order.role, created_by, now, order.expires_at, None
    )
    await store.insert_api_key(uow, key, secret_hash=_hash_of(secret))
    return NewKey(key, f"{KEY_PREFIX}{key_id}_{secret}")


async def list_api_keys(uow: UnitOfWork, *, after: str | None, limit: int) -> list[ApiKey]:
    """Return keys in order of their ids, from after the given one; revoked ones too, secrets never."""
    return await store.list_api_keys(uow, after=after, limit=limit)


async def revoke_api_key(uow: UnitOfWork, key_id: str, *, now: datetime) -> ApiKey:
    """End a key; one that has ended already keeps the time at which it did.

    Other processes may take it for up to 5 s more; this one forgets it by `Authenticator.forget_key`.

    Raises:
        NotFound: No such key in this tenant.
    """
    key = await store.revoke_api_key(uow, key_id, now=now) if _KEY_ID.fullmatch(key_id) else None
    if key is None:
        raise NotFound(kind="API key", identifier=key_id[:40])
    return key


@dataclass(slots=True)
class KeyChecker:
    """Believes API keys; what it read may be 5 s old."""

    database: Database
    clock: Clock
    known: Recent[str, store.StoredKey | None]

    async def check(self, text: str) -> Authentication:
        """Return whose key this is.

        An unknown key and a wrong secret are one answer, and the same work is done for both.

        Raises:
            Unauthenticated: It is not a valid key.
            DatabaseUnavailable: It could not be looked up.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise Unauthenticated(Refusal.KEY)
        key_id, secret_hash = match[1], _hash_of(match[2])
        stored = await self.known.get(key_id, lambda: self._read(key_id))
        is_right = hmac.compare_digest(secret_hash, stored.secret_hash if stored else _NO_HASH)
        if stored is None or not is_right or not self._is_open(stored):
            raise Unauthenticated(Refusal.KEY)
        principal = Principal(stored.tenant, f"{KEY_SUBJECT}{key_id}", stored.role, None)
        return Authentication(principal, stored.expires_at)

    async def _read(self, key_id: str) -> store.StoredKey | None:
        try:
            async with asyncio.timeout(READ_DEADLINE_S):
                return await store.find_api_key(self.database, key_id)
        except TimeoutError:
            raise DatabaseUnavailable(doing="checking who asks") from None

    def _is_open(self, stored: store.StoredKey) -> bool:
        has_time = stored.expires_at is None or self.clock.now() < stored.expires_at
        is_active = stored.tenant_status is TenantStatus.ACTIVE
        return has_time and is_active and stored.revoked_at is None


def _hash_of(secret: str) -> bytes:
    # The secret is 256 random bits, so a fast hash is as good as a slow one.
    return hashlib.sha256(secret.encode()).digest()
