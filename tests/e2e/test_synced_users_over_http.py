"""Whose balances are pulled, as a screen lists them: never called fresh unless everything was read in time."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from steelyard.access.model import Role
from steelyard.access.users import NewUser, upsert_users
from steelyard.core.ids import DEFAULT_TENANT, AccountId, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.mirror.standing import AccountStanding, UserStanding
from steelyard.providers.contract import BalanceKind
from steelyard.sync.enroll import Enrollment, enroll_accounts
from steelyard.sync.users_api import Freshness
from tests.e2e.providers.bank_kit import GBP, KEY, OVERDRAWN, opened
from tests.e2e.scene import assert_problem
from tests.e2e.server_kit import Server, bearer, start_server
from tests.world import World

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ANN, BEN, WALLET = UserId("ann"), UserId("ben"), UserId("wallet")


def user(*ages: timedelta | None, is_paused: bool = False) -> UserStanding:
    """A user whose accounts were read so long before now."""
    accounts = tuple(
        AccountStanding(
            AccountId(1), GBP, 5, 1, None if age is None else NOW - age, True, None, "01"
        )
        for age in ages
    )
    return UserStanding(ANN, None, accounts, is_paused=is_paused)


@pytest.mark.parametrize(
    ("standing", "state"),
    [
        (user(2 * MINUTE), "fresh"),
        (user(2 * MINUTE + timedelta(seconds=1)), "stale"),
        (user(MINUTE, 3 * MINUTE), "stale"),
        (user(MINUTE, None), "new"),
        (user(None), "new"),
        (user(MINUTE, is_paused=True), "paused"),
    ],
)
def test_the_oldest_reading_says_how_a_user_stands(standing: UserStanding, state: str) -> None:
    assert Freshness(MINUTE, NOW).state_of(standing) == state
    if state in ("fresh", "stale"):
        assert Freshness(None, NOW).state_of(standing) == "stored"
        assert Freshness(MINUTE, NOW).state_of(replace(standing, last_result="x")) == state


@pytest_asyncio.fixture
async def server(world: World, tmp_path: Path) -> AsyncIterator[Server]:
    """Two users with accounts at a bank and one without; read when asked for, or in an hour."""
    hour = timedelta(hours=1)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        now = world.clock.now()
        await upsert_users(uow, [NewUser(ANN, "Ann"), NewUser(BEN), NewUser(WALLET)], now=now)
        wanted = [
            NewMirroredAccount(ANN, "t24", OVERDRAWN.number, GBP, "CURRENT", is_primary=True),
            NewMirroredAccount(BEN, "t24", "2999999999", GBP, is_primary=True),
        ]
        await enroll_accounts(uow, wanted, Enrollment("t24", hour), now=now)
    async with opened() as scene:
        assert scene.server is not None
        settings = {
            "T24_API_URL": scene.server.url,
            "T24_API_KEY": KEY,
            "BALANCE_SYNC_INTERVAL": "3600000",
        }
        started = await start_server(world.fresh.app_url, tmp_path, settings=settings)
        yield started
        await started.stop()


async def test_users_are_listed_with_what_was_read_and_what_their_syncs_came_to(
    server: Server,
) -> None:
    admin = bearer(UserId("boss"), Role.ADMIN)
    for name in (ANN, BEN):
        await server.call("POST", f"/api/sync/users/{name}/login", headers=admin)
    first = (await server.call("GET", "/api/sync/users?limit=1", headers=admin)).json()
    assert (first["interval_ms"], first["has_more"]) == (3_600_000, True)
    assert first["source"] == {"provider": "t24", "state": "asked", "until": None}
    (ann,) = first["data"]
    (account,) = ann["accounts"]
    assert (ann["user"], ann["name"], ann["state"], ann["last_result"]) == (
        "ann",
        "Ann",
        "fresh",
        "ok",
    )
    assert account["balance"] == OVERDRAWN.truth()[BalanceKind.AVAILABLE]
    assert (account["currency"], account["digits"], account["account_type"]) == (
        "GBP",
        2,
        "CURRENT",
    )
    assert (account["ending"], account["read_at"]) == (OVERDRAWN.number[-2:], ann["read_at"])

    path = f"/api/sync/users?limit=1&cursor={first['next_cursor']}"
    last = (await server.call("GET", path, headers=admin)).json()
    (ben,) = last["data"]
    assert (ben["user"], ben["state"], ben["read_at"]) == ("ben", "new", None)
    assert ben["last_result"] == "provider_not_found"
    assert (last["has_more"], last["next_cursor"]) == (False, None)

    mine = (await server.call("GET", "/api/sync/users", headers=bearer(BEN, Role.USER))).json()
    assert [one["user"] for one in mine["data"]] == ["ben"]
    none = (await server.call("GET", "/api/sync/users", headers=bearer(WALLET, Role.USER))).json()
    assert none["data"] == []
    for query in ("limit=0", "limit=101", "cursor=x"):
        refused = await server.call("GET", f"/api/sync/users?{query}", headers=admin)
        assert_problem(refused, 422, "invalid_input")
