"""Users, accounts and money for a test, made through the API alone; and a look at what is written."""

import secrets
from dataclasses import dataclass
from typing import Any

import httpx2

from steelyard.access.model import Role
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.runtime.database import Connection
from tests.e2e.server_kit import Server, bearer, key

MONEY_TABLES = ("account", "change", "operation", "hold", "topup", "book", "app_user", "api_key")


@dataclass(frozen=True)
class Owned:
    """A user and its account."""

    user: str
    account: str
    tenant: str = DEFAULT_TENANT

    @property
    def as_user(self) -> dict[str, str]:
        """The header of the user itself."""
        return bearer(self.user, Role.USER, tenant=self.tenant)


@dataclass
class Scene:
    """Acts as the tenant's backend."""

    server: Server
    superuser: Connection

    async def own(
        self, balance: int = 0, *, currency: str = "GBP", tenant: str = DEFAULT_TENANT
    ) -> Owned:
        """Make a user with an account that holds `balance`."""
        user = f"user-{secrets.token_hex(6)}"
        admin = bearer(tenant=tenant)
        made = await self.server.call("POST", "/api/users", json={"id": user}, headers=admin)
        assert made.status_code == 201, made.text
        body = {"user": user, "currency": currency}
        opened = await self.server.call("POST", "/api/accounts", json=body, headers=admin)
        assert opened.status_code == 201, opened.text
        owned = Owned(user, opened.json()["account"], tenant)
        if balance:
            await self.post(owned, "recharges", {"amount": balance})
        return owned

    async def post(self, owned: Owned, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """Move money as an admin; it must take effect."""
        answer = await self.send(owned, what, body)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def send(
        self, owned: Owned, what: str, body: Any, *, with_key: str | None = None
    ) -> httpx2.Response:
        """Try to move money as an admin."""
        headers = {**bearer(tenant=owned.tenant), **key(with_key)}
        path = f"/api/accounts/{owned.account}/{what}"
        return await self.server.call("POST", path, json=body, headers=headers)

    async def balance(self, owned: Owned) -> dict[str, Any]:
        """Read a balance as an admin."""
        path = f"/api/accounts/{owned.account}/balance"
        answer = await self.server.call("GET", path, headers=bearer(tenant=owned.tenant))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def written(self) -> dict[str, Any]:
        """Return how many rows each table has and what all accounts add up to."""
        rows = {
            table: await self.superuser.fetchval(f"SELECT count(*) FROM steelyard.{table}")
            for table in (*MONEY_TABLES, "audit")
        }
        sums = await self.superuser.fetchrow(
            "SELECT sum(abs(posted)) AS posted, sum(held) AS held, sum(seq) AS seq FROM steelyard.account"
        )
        assert sums is not None
        return {**rows, **dict(sums)}


def assert_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is a whole problem document; return it."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    assert found["status"] == status
    assert found["type"] == f"urn:steelyard:problem:{code}"
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["title"]
    assert found["detail"]
    assert isinstance(found["retryable"], bool)
    return found
