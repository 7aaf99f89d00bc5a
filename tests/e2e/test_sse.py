"""Server-sent events over a real server: the same events, resumed by `Last-Event-ID`, with nothing but HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from steelyard.access.model import Role
from tests.e2e.scene import Owned, Scene, assert_problem
from tests.e2e.server_kit import bearer, token
from tests.e2e.socket_kit import DEADLINE_S, token_of


@dataclass
class Events:
    """A stream, as `EventSource` reads it."""

    answer: httpx2.Response
    lines: AsyncIterator[str]
    last_id: str = ""
    comments: int = 0
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def next(self) -> dict[str, Any]:
        """Return the next event."""
        name = ""
        async with asyncio.timeout(DEADLINE_S):
            async for line in self.lines:
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "id":
                    self.last_id = value
                elif kind == "data":
                    self.heard.append({"event": name, **json.loads(value)})
                elif not line and name:
                    return self.heard[-1]
        raise AssertionError("the stream has ended")

    async def until(self, event: str) -> dict[str, Any]:
        """Return the next event of this name."""
        while (found := await self.next())["event"] != event:
            pass
        return found


@asynccontextmanager
async def streaming(scene: Scene, headers: dict[str, str], **query: str) -> AsyncIterator[Events]:
    """Open a stream that must be let in."""
    client = scene.server.client
    async with client.stream("GET", "/balance/stream", params=query, headers=headers) as answer:
        assert answer.status_code == 200
        yield Events(answer, answer.aiter_lines())


async def test_a_stream_tells_the_same_events_with_the_place_to_resume_at(scene: Scene) -> None:
    owned = await scene.own(10_000)
    async with streaming(scene, owned.as_user) as events:
        assert events.answer.headers["content-type"] == "text/event-stream"
        assert events.answer.headers["cache-control"] == "no-store"
        assert events.answer.headers["x-request-id"]
        initial = await events.next()
        assert (initial["event"], initial["balance"], initial["resumed"]) == (
            "balance_initial",
            100,
            False,
        )
        assert events.last_id == f"{owned.account}:1"
        await scene.post(owned, "charges", {"amount": 100})
        updated = await events.next()
        assert (updated["event"], updated["newBalance"]) == ("balance_updated", 99)
        assert events.last_id == f"{owned.account}:1"  # its transaction is still to come
        assert (await events.next())["event"] == "transaction_completed"
        assert events.last_id == f"{owned.account}:2"
        await scene.post(owned, "holds", {"amount": 100})
        held = await events.next()
        assert (held["transactionType"], events.last_id) == ("hold", f"{owned.account}:3")


async def test_a_stream_resumes_where_its_last_event_stood(scene: Scene) -> None:
    owned = await scene.own(10_000)
    async with streaming(scene, owned.as_user) as events:
        await events.next()
        last = events.last_id
    for _ in range(3):
        await scene.post(owned, "charges", {"amount": 100})
    headers = {**owned.as_user, "Last-Event-ID": last}
    async with streaming(scene, headers) as events:
        initial = await events.until("balance_initial")
        assert initial["resumed"] is True
        completed = [one for one in events.heard if one["event"] == "transaction_completed"]
        assert [(one["seq"], one["replayed"]) for one in completed] == [
            (2, True),
            (3, True),
            (4, True),
        ]
        assert events.last_id == f"{owned.account}:4"


async def test_a_browsers_event_source_gives_its_token_in_the_query(scene: Scene) -> None:
    owned = await scene.own(100)
    async with streaming(scene, {}, token=token_of(owned), accounts="all") as events:
        assert (await events.next())["accountId"] == owned.account


async def test_an_operator_sees_the_screen_it_names_and_a_user_only_its_own(scene: Scene) -> None:
    owned = await scene.own(100)
    operator = bearer("op", Role.OPERATOR)
    async with streaming(scene, operator, user=owned.user) as events:
        assert (await events.next())["accountId"] == owned.account
    other: Owned = await scene.own(100)
    path = f"/balance/stream?user={owned.user}"
    answer = await scene.server.call("GET", path, headers=other.as_user)
    assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({}, "", 401, "unauthenticated"),
        ({"Authorization": "Bearer nonsense"}, "", 401, "unauthenticated"),
        ({}, "token=nonsense", 401, "unauthenticated"),
        (bearer("ann", Role.USER), "accounts=some", 422, "invalid_input"),
        (bearer("ann", Role.USER), "positions=x", 422, "invalid_input"),
        ({**bearer("ann", Role.USER), "Last-Event-ID": "x"}, "", 422, "invalid_input"),
        ({**bearer("ann", Role.USER), "Last-Event-ID": "1:2,"}, "", 422, "invalid_input"),
        ({**bearer("ann", Role.USER), "Origin": "https://evil.example"}, "", 403, "forbidden"),
    ],
)
async def test_what_is_refused_is_a_problem_document(
    scene: Scene, headers: dict[str, str], query: str, status: int, code: str
) -> None:
    answer = await scene.server.call("GET", f"/balance/stream?{query}", headers=headers)
    assert_problem(answer, status, code)


async def test_the_eleventh_stream_of_a_user_is_refused_and_leaving_makes_room(
    scene: Scene,
) -> None:
    owned = await scene.own(100)
    async with AsyncExitStack() as others, AsyncExitStack() as first:
        streams = [
            await (others if number else first).enter_async_context(streaming(scene, owned.as_user))
            for number in range(10)
        ]
        for events in streams:
            await events.next()
        answer = await scene.server.call("GET", "/balance/stream", headers=owned.as_user)
        assert_problem(answer, 429, "rate_limited")
        await first.aclose()
        await asyncio.sleep(0.2)
        async with streaming(scene, owned.as_user) as events:
            await events.next()


async def test_a_token_that_ends_ends_the_stream_with_an_error_event(scene: Scene) -> None:
    owned = await scene.own(100)
    short = token(owned.user, Role.USER, lifetime=timedelta(seconds=2))
    async with streaming(scene, {"Authorization": f"Bearer {short}"}) as events:
        assert (await events.until("error"))["code"] == "unauthenticated"
        with pytest.raises(AssertionError, match="ended"):
            await events.next()


@pytest.mark.slow
async def test_a_quiet_stream_outlives_every_deadline_by_its_heartbeat(scene: Scene) -> None:
    owned = await scene.own(10_000)
    async with streaming(scene, owned.as_user) as events:
        await events.next()
        async with asyncio.timeout(30):
            async for line in events.lines:
                if line.startswith(":"):
                    break
        await scene.post(owned, "charges", {"amount": 1})
        await events.until("transaction_completed")
