"""While the database is away money says 503 in time, reads say how old they are, and all comes back by itself."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio

from steelyard.runtime.database import Connection
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.scene import Owned, Scene, assert_problem
from tests.e2e.server_kit import Server, bearer, key, start_server
from tests.world import FreshDatabase

LONGEST_S = 3.0


@pytest_asyncio.fixture
async def proxy(shared_database: FreshDatabase) -> AsyncIterator[DatabaseProxy]:
    """A proxy in front of the shared database."""
    opened = DatabaseProxy(shared_database.app_url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def frail(
    proxy: DatabaseProxy, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that reaches its database through the proxy."""
    url = await proxy.open()
    started = await start_server(url, tmp_path_factory.mktemp("frail"))
    yield started
    proxy.come_back()
    await started.stop()


async def _charge(server: Server, owned: Owned, name: str) -> httpx2.Response:
    path, headers = f"/api/accounts/{owned.account}/charges", {**bearer(), **key(name)}
    began = time.monotonic()
    answer = await server.call("POST", path, json={"amount": 100}, headers=headers)
    assert time.monotonic() - began < LONGEST_S
    return answer


async def _assert_away(server: Server, owned: Owned) -> None:
    problem = assert_problem(
        await _charge(server, owned, f"away-{owned.account}"), 503, "database_unavailable"
    )
    assert problem["retryable"] is True
    for path, body in (("/transactions/topup", {"amount": 1}), ("/api/accounts", {"user": "x"})):
        began = time.monotonic()
        answer = await server.call("POST", path, json=body, headers={**bearer("new"), **key()})
        assert_problem(answer, 503, "database_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert time.monotonic() - began < LONGEST_S
    ready = await server.call("GET", "/readyz", headers={})
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert (await server.call("GET", "/livez", headers={})).status_code == 200


async def _assert_reads_tell_their_age(
    server: Server, owned: Owned, as_before: dict[str, str]
) -> None:
    for path in (f"/api/accounts/{owned.account}/balance", "/api/balance"):
        began = time.monotonic()
        answer = await server.call("GET", path, headers=as_before)
        assert time.monotonic() - began < LONGEST_S
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["available"], told["stale"]) == (1000, True)
        assert 0 <= told["age_s"] <= 60
        assert told["as_of"].endswith("Z")


@pytest.mark.parametrize("way", ["refused", "silent"])
async def test_money_answers_503_in_time_and_recovers_by_itself(
    frail: Server, proxy: DatabaseProxy, superuser: Connection, way: str
) -> None:
    scene = Scene(frail, superuser)
    owned = await scene.own(1000)
    as_before = owned.as_user
    for path in (f"/api/accounts/{owned.account}/balance", "/api/balance"):
        fresh = await frail.call("GET", path, headers=as_before)
        assert "stale" not in fresh.json()
    if way == "refused":
        proxy.go_away()
    else:
        proxy.is_silent = True
    await _assert_away(frail, owned)
    await asyncio.sleep(6)  # longer than any answer about a caller is kept
    await _assert_reads_tell_their_age(frail, owned, as_before)
    stranger = await frail.call("GET", "/api/balance", headers=bearer("never-seen"))
    assert_problem(stranger, 503, "database_unavailable")
    proxy.come_back()
    began = time.monotonic()
    while True:
        answer = await _charge(frail, owned, f"away-{owned.account}")
        if answer.status_code != 503:
            break
        assert time.monotonic() - began < 10, answer.text
    assert answer.status_code in (200, 201)
    again = await _charge(frail, owned, f"away-{owned.account}")
    assert (again.status_code, again.content) == (200, answer.content)
    assert (await scene.balance(owned))["posted"] == 900


async def test_connections_that_break_under_load_lose_and_double_nothing(
    frail: Server, proxy: DatabaseProxy, superuser: Connection
) -> None:
    scene = Scene(frail, superuser)
    owned = await scene.own(100_000)
    accepted = 0
    for number in range(40):
        if number % 10 == 5:
            proxy.cut()
        for _ in range(5):
            answer = await _charge(frail, owned, f"cut-{owned.account}-{number}")
            if answer.status_code in (200, 201):
                accepted += 1
                break
    assert accepted == 40
    assert (await scene.balance(owned))["posted"] == 100_000 - 40 * 100
