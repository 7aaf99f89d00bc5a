"""Two tenants with a little of everything, and ways to look behind the wall."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from steelyard.access.authenticate import Authenticator
from steelyard.access.key_sets import FixedKeys
from steelyard.access.model import Principal, Role
from steelyard.access.tenants import create_tenant
from steelyard.access.tokens import TokenRules, TokenVerifier
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Connection, Database, connect
from steelyard.testing.clock import FrozenClock
from tests.unit.access.token_kit import NOW, SECRET, claims, signed

ACME, ZETA = TenantId("acme"), TenantId("zeta")


def admin_of(tenant: TenantId) -> Principal:
    return Principal(tenant, "boss", Role.ADMIN, UserId("boss"))


async def make_tenants(database: Database) -> None:
    """Make both tenants."""
    for tenant in (ACME, ZETA):
        assert await create_tenant(database, tenant, name=tenant.title(), now=NOW)


@asynccontextmanager
async def behind_the_wall(admin_url: str) -> AsyncIterator[Connection]:
    """Connect as the superuser: to see and break what the product cannot."""
    connection = await connect(admin_url)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass
class Door:
    """An authenticator on a real database with a clock that stands still."""

    authenticator: Authenticator
    clock: FrozenClock

    @classmethod
    def on(cls, database: Database) -> "Door":
        clock = FrozenClock(NOW)
        verifier = TokenVerifier(TokenRules(), FixedKeys((SECRET,)), clock)
        return cls(Authenticator.build(database, verifier, clock), clock)

    async def enter(self, credential: str) -> Principal:
        return await self.authenticator.authenticate(f"Bearer {credential}")


def token(tenant: str, subject: str = "42", **more: Any) -> str:
    """A token that lasts a day from NOW."""
    return signed(claims(sub=subject, tenant=tenant, **{"exp": NOW.timestamp() + 86_400, **more}))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
