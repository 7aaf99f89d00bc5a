"""Users with accounts at the core bank, from the call or the file that names them to the balance on their screen."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from steelyard.access.model import Role
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from tests.e2e.cli_kit import command
from tests.e2e.providers.bank_kit import KEY, OVERDRAWN, Scene, opened
from tests.e2e.scene import assert_problem
from tests.e2e.server_kit import Server, bearer, start_server, token
from tests.e2e.socket_kit import connected
from tests.redis_kit import Valkey, running_valkey
from tests.world import World

ACCOUNT = {"accountNumber": "1001", "accountType": "SAVINGS", "currency": "GBP", "isPrimary": True}
ANN = {"username": "ann", "context": "MOBILE_BANKING", "customerNumber": "7", "accounts": [ACCOUNT]}


@dataclass
class Branch:
    """A server beside a simulated core bank and a Valkey."""

    world: World
    server: Server
    scene: Scene
    valkey: Valkey

    async def enroll(self, *users: object, **more: object) -> Any:
        """Enroll; the answer's body."""
        answer = await self.server.call(
            "POST", "/api/sync/users", json={"users": list(users), **more}, headers=bearer()
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def targets(self) -> set[str]:
        """Who is synced."""
        async with self.world.database.unit_of_work(DEFAULT_TENANT) as uow:
            return {
                row["subject"]
                for row in await uow.fetch("SELECT subject FROM steelyard.sync_target")
            }


@pytest_asyncio.fixture
async def branch(world: World, tmp_path: Path) -> AsyncIterator[Branch]:
    """Syncs only what is asked for."""
    async with running_valkey() as valkey, opened() as scene:
        assert scene.server is not None
        settings = {
            "T24_API_URL": scene.server.url,
            "T24_API_KEY": KEY,
            "BALANCE_SYNC_INTERVAL": "0",
            "QUEUE_PROCESS_INTERVAL": "100",
            "STEELYARD_REDIS_URL": valkey.url,
        }
        server = await start_server(world.fresh.app_url, tmp_path, settings=settings)
        yield Branch(world, server, scene, valkey)
        await server.stop()


async def test_a_login_after_an_import_shows_the_banks_balance_everywhere(
    branch: Branch, tmp_path: Path
) -> None:
    file = tmp_path / "users.csv"
    file.write_text(
        "username,context,customerNumber,accountNumber,currency,isPrimary\n"
        f"banker,MOBILE_BANKING,{OVERDRAWN.customer},{OVERDRAWN.number},GBP,true\n"
    )
    url = branch.world.fresh.app_url
    imported = await asyncio.to_thread(command, "import", "users", file, STEELYARD_DATABASE_URL=url)
    assert imported.code == 0, imported.err

    redis = Redis.from_url(branch.valkey.url)
    channel = redis.pubsub()
    await channel.subscribe("balance:updates")
    try:
        async with connected(branch.server, token=token("banker", Role.USER)) as socket:
            assert (await socket.until("balance_initial"))["balance"] == 0
            path = "/api/sync/users/banker/login"
            answer = await branch.server.call("POST", path, headers=bearer("banker", Role.USER))
            told = answer.json()
            assert (told["ok"], told["balance"], told["currency"]) == (True, "-18.25", "GBP")
            moved = await socket.until("balance_updated")
            assert (moved["previousBalance"], moved["newBalance"]) == (0, -18.25)
            assert (moved["transactionType"], moved["accountId"]) == ("sync", told["account"])
        async with asyncio.timeout(10):
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=1)
                if message is not None:
                    break
        heard = json.loads(message["data"])
        assert (heard["userId"], heard["newBalance"]) == ("banker", -18.25)
    finally:
        await channel.aclose()  # type: ignore[no-untyped-call]
        await redis.aclose()


async def test_users_are_enrolled_changed_and_left_alone_by_one_call(branch: Branch) -> None:
    bob = {"id": 7, "context": "WALLET", "accounts": []}
    first = await branch.enroll(ANN, bob)
    [account] = first["data"][0]["accounts"]
    assert first == {
        "data": [
            {
                "id": "ann",
                "outcome": "created",
                "accounts": [{"account": account["account"], "outcome": "created"}],
                "problem": None,
            },
            {"id": "7", "outcome": "created", "accounts": [], "problem": None},
        ],
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "refused": 0,
    }
    assert await branch.targets() == {"ann"}
    again = await branch.enroll(ANN, bob)
    assert (again["unchanged"], again["data"][0]["accounts"][0]["account"]) == (
        2,
        account["account"],
    )
    snake = {"username": "ann", "is_active": False, "customer_number": "8"}
    edited = await branch.enroll(snake)
    assert (edited["updated"], await branch.targets()) == (1, set())
    login = await branch.server.call("POST", "/api/sync/users/ann/login", headers=bearer())
    assert login.json()["reason"] == "inactive"
    dead = await branch.server.call(
        "POST", "/api/sync/users/ann/login", headers=bearer("ann", Role.USER)
    )
    assert dead.status_code == 401
    async with branch.world.database.unit_of_work(DEFAULT_TENANT) as uow:
        lines = await uow.fetch("SELECT actor, action FROM steelyard.audit ORDER BY id")
    assert [(one["actor"], one["action"]) for one in lines] == [("boss", "sync.enroll")] * 2


async def test_each_refused_user_has_a_reason_and_the_others_are_written(branch: Branch) -> None:
    told = await branch.enroll(
        ANN,
        {"username": "dan", "accounts": [{"accountNumber": "1001", "currency": "GBP"}]},
        {"username": "eve", "accounts": [{"accountNumber": "2", "currency": "GBX"}]},
        {"username": "ann"},
        {"username": "key:1"},
        {
            "username": "fay",
            "accounts": [{"accountNumber": "3", "currency": "GBP", "balance": "2.50"}],
        },
    )
    assert [(one["id"], one["outcome"]) for one in told["data"]] == [
        ("ann", "created"),
        ("dan", "refused"),
        ("eve", "refused"),
        ("ann", "refused"),
        ("key:1", "refused"),
        ("fay", "created"),
    ]
    assert [one["problem"]["code"] for one in told["data"] if one["problem"]] == [
        "number_taken",
        "unknown_currency",
        "duplicate",
        "invalid_value",
    ]
    assert (told["created"], told["refused"]) == (2, 4)
    assert await branch.targets() == {"ann", "fay"}
    [account] = told["data"][5]["accounts"]
    balance = await branch.server.call(
        "GET", f"/api/accounts/{account['account']}/balance", headers=bearer()
    )
    assert balance.json()["available"] == 250


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"users": []},
        {"users": [{"username": "a"}] * 1_001},
        {"users": [{"username": "a", "password": "x"}]},
        {"users": [{"username": "a", "isActive": "true"}]},
        {"users": [{"username": "a", "accounts": [{"accountNumber": 1.5}]}]},
        {"users": [{"username": "a", "accounts": [{"accountNumber": "1", "balance": 1.5}]}]},
        {"users": [{"username": "a", "accounts": [ACCOUNT] * 101}]},
        {"users": [{"username": "a", "accounts": [{"currency": "GBP"}]}]},
        {"users": [{"username": f"u{n}", "accounts": [ACCOUNT] * 100} for n in range(101)]},
        {"users": [{"username": "a"}], "currency": "nope"},
    ],
)
async def test_a_body_of_another_form_is_refused_whole(server: Server, body: object) -> None:
    answer = await server.call("POST", "/api/sync/users", json=body, headers=bearer())
    assert_problem(answer, 422, "invalid_input")


@pytest.mark.slow
async def test_a_thousand_users_fit_and_only_backends_enroll_in_their_own_tenant(
    branch: Branch,
) -> None:
    users = [
        {"username": f"u{i:04d}", "accounts": [{**ACCOUNT, "accountNumber": f"{i}"}]}
        for i in range(1_000)
    ]
    for role in (Role.USER, Role.OPERATOR):
        refused = await branch.server.call(
            "POST", "/api/sync/users", json={"users": users}, headers=bearer("ann", role)
        )
        assert_problem(refused, 403, "forbidden")
    acme = TenantId("acme")
    await branch.world.make_tenant(acme)
    there = await branch.server.call(
        "POST",
        "/api/sync/users",
        json={"users": users},
        headers=bearer("till", Role.SERVICE, tenant=acme),
    )
    assert there.json()["created"] == 1_000
    assert await branch.targets() == set()
    assert (await branch.enroll(*users))["created"] == 1_000
    assert len(await branch.targets()) == 1_000
