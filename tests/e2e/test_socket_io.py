"""Socket.IO by hand, over real sockets: order, refusals, endings, and everything a client must not send."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from steelyard.live.admit import Origins
from steelyard.live.engine_connection import PACKETS_AT_ONCE, EngineConnection
from steelyard.live.engine_frames import DEPTH_LIMIT, PACKETS_LIMIT
from steelyard.live.events import LiveEvent
from steelyard.live.limits import FRAME_BYTES_MAX, LiveLimits
from steelyard.live.outbox import OUTBOX_LIMIT
from steelyard.live.socket_io import IDLE_LIMIT_S
from steelyard.live.transport import Ending
from tests.socket_kit import (
    GOOD,
    Poller,
    Rig,
    connect_packet,
    event_of,
    joined,
    rig,
    text_of,
    until,
)

INITIAL = '42/balance,["balance_initial",{"balance":10}]'


@pytest_asyncio.fixture(scope="module")
async def live() -> AsyncIterator[Rig]:
    """A running adapter that all tests of this module may use and none may break."""
    async with rig() as running:
        yield running
        assert not running.gateway.open_sessions


@dataclass
class MovedClock:
    """A clock that stands until it is moved."""

    at_s: float = 1000.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return self.at_s


async def open_session(live: Rig, client: ClientConnection) -> None:
    """Connect and read the first balance."""
    assert (await joined(client)).startswith('40/balance,{"sid":')
    assert await text_of(client) == INITIAL


async def read_to_end(client: ClientConnection) -> list[str]:
    """Return the frames until the server closes."""
    found: list[str] = []
    try:
        async with asyncio.timeout(5):
            while True:
                frame = await client.recv()
                assert isinstance(frame, str)
                found.append(frame)
    except ConnectionClosed:
        return found


async def test_the_first_balance_comes_after_connect_and_answers_behind_earlier_events(
    live: Rig,
) -> None:
    async with live.websocket() as client:
        await open_session(live, client)
        session = live.gateway.sessions[-1]
        assert (session.hello.token, session.hello.transport) == (GOOD, "socket.io")
        session.put(LiveEvent("balance_updated", '{"seq":1}'))
        await client.send('42/balance,7["get_current_balance"]')
        assert event_of(await text_of(client)) == ("balance_updated", {"seq": 1})
        assert event_of(await text_of(client)) == ("answered", {"name": "get_current_balance"})
        assert await text_of(client) == '43/balance,7[{"name": "get_current_balance"}]'
        await client.send('42/balance,["subscribe_balance",{"accounts":"all"}]')
        assert event_of(await text_of(client))[0] == "answered"
        assert session.heard[-1] == ("subscribe_balance", {"accounts": "all"})
    await until(lambda: session.ended is Ending.LEFT)


async def test_what_auth_says_reaches_the_gateway_and_goes_before_the_query(live: Rig) -> None:
    async with live.websocket("&token=of+the+query") as client:
        await client.send(connect_packet(GOOD, user="anna", accounts="all", positions={"7": 12}))
        assert (await text_of(client)).startswith("40/balance")
        hello = live.gateway.sessions[-1].hello
        assert (hello.user, hello.accounts, hello.positions) == ("anna", "all", {"7": 12})
    async with live.websocket("&token=good+token") as client:
        await client.send("40/balance,")
        assert (await text_of(client)).startswith("40/balance")
        assert live.gateway.sessions[-1].hello.token == GOOD


async def test_a_refusal_is_a_connect_error_with_message_and_code(live: Rig) -> None:
    async with live.websocket() as client:
        answer = await joined(client, "bad token")
        assert json.loads(answer.removeprefix("44/balance,")) == {
            "message": "this token is not valid",
            "data": {"code": "unauthenticated"},
        }
        assert (await joined(client, GOOD)).startswith("40/balance"), "it may try again"


async def test_a_server_in_trouble_closes_the_transport_so_that_clients_come_back(
    live: Rig,
) -> None:
    async with live.websocket() as client:
        await client.send(connect_packet("away"))
        assert await read_to_end(client) == ["1"]


async def test_other_namespaces_are_refused_with_a_message(live: Rig) -> None:
    async with live.websocket() as client:
        for packet, start in (("40", "44{"), ("40/other,", "44/other,{"), ("40/a?b=c", "44/a,{")):
            await client.send(packet)
            answer = await text_of(client)
            assert answer.startswith(start)
            assert "there is no namespace here but /balance" in answer
        await open_session(live, client)


async def test_a_client_may_leave_the_namespace_and_come_back(live: Rig) -> None:
    async with live.websocket() as client:
        await open_session(live, client)
        first = live.gateway.sessions[-1]
        await client.send("41/balance,")
        await open_session(live, client)
        assert first.ended is Ending.LEFT
        assert live.gateway.sessions[-1].ended is None


MALFORMED_FRAMES = {
    "binary": b"\x04\x05",
    "empty": "",
    "unknown type": "x",
    "type 9": "9",
    "an open packet": '0{"sid":"x"}',
    "ping": "2",
    "data after pong": "3" + "[" * 10_000,
    "deep json in a message": "4" + "[" * 10_000,
    "base64": "bAAAA",
    "binary event": '451-/balance,["x",{"_placeholder":true,"num":0}]',
    "binary event of a billion parts": '459999999999-/balance,["x"]',
    "acknowledgement": "43/balance,1[]",
    "connect_error": '44/balance,{"message":"x"}',
    "oversized": '42/balance,["x","' + "y" * FRAME_BYTES_MAX + '"]',
    "oversized in bytes": '42/balance,["x","' + "ü" * (FRAME_BYTES_MAX // 2) + '"]',
}


@pytest.mark.parametrize("frame", MALFORMED_FRAMES.values(), ids=MALFORMED_FRAMES.keys())
async def test_a_malformed_frame_ends_its_sender_and_nobody_else(
    live: Rig, frame: str | bytes
) -> None:
    async with live.websocket() as witness, live.websocket() as client:
        await open_session(live, witness)
        await open_session(live, client)
        await client.send(frame)
        told, left, closed = await read_to_end(client)
        assert event_of(told)[0] == "error"
        assert event_of(told)[1]["code"] == "malformed_frame"
        assert (left, closed) == ("41/balance,", "1")
        assert live.gateway.sessions[-1].ended is Ending.MALFORMED
        assert live.gateway.sessions[-1].heard == []
        await client.wait_closed()
        await witness.send('42/balance,1["still_here"]')
        assert event_of(await text_of(witness))[0] == "answered"


MEANINGLESS = {
    "not json": '42/balance,["x"',
    "not a list": '42/balance,{"x":1}',
    "no name": "42/balance,[]",
    "name is a number": "42/balance,[1]",
    "a name of ours": '42/balance,["connect",{"HTTP_ORIGIN":"x"}]',
    "a long name": '42/balance,["' + "x" * 500 + '"]',
    "deep": '42/balance,["x",' + "[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT + "]",
    "very deep": '42/balance,["x",' + "[" * 7000 + "]" * 7000 + "]",
    "not a number": '42/balance,["x",NaN]',
    "a huge number": '42/balance,["x",' + "9" * 5000 + "]",
    "a long packet number": "42/balance," + "9" * 200 + '["x"]',
    "connected twice": '40/balance,{"token":"good token"}',
    "event to another namespace": '42/other,["x"]',
    "event to no namespace": '42["x"]',
}


@pytest.mark.parametrize("frame", MEANINGLESS.values(), ids=MEANINGLESS.keys())
async def test_what_makes_no_sense_is_answered_with_an_error(live: Rig, frame: str) -> None:
    async with live.websocket() as client:
        await open_session(live, client)
        await client.send(frame)
        name, payload = event_of(await text_of(client))
        assert (name, payload["code"]) == ("error", "malformed_frame")
        session = live.gateway.sessions[-1]
        assert session.heard == []
        assert len(session.complaints) == 1
        await client.send('42/balance,["still_here"]')
        assert event_of(await text_of(client))[0] == "answered"


@pytest.mark.parametrize("frame", ['42/balance,["x"]', '42["x"]', "40/balance,{", "42/balance,"])
async def test_nothing_is_done_before_connect(live: Rig, frame: str) -> None:
    async with live.websocket() as client:
        count = len(live.gateway.sessions)
        await client.send(frame)
        assert await read_to_end(client) == ["1"]
        assert len(live.gateway.sessions) == count


async def test_auth_that_is_no_object_is_refused(live: Rig) -> None:
    async with live.websocket() as client:
        await client.send('40/balance,["good token"]')
        assert "auth must be an object" in await text_of(client)


async def test_a_flood_ends_its_sender(live: Rig) -> None:
    async with live.websocket() as client:
        await open_session(live, client)
        session = live.gateway.sessions[-1]
        for _ in range(PACKETS_AT_ONCE * 2):
            await client.send("3")
        told, left, closed = await read_to_end(client)
        assert event_of(told)[1]["code"] == "rate_limited"
        assert (left, closed) == ("41/balance,", "1")
        assert session.ended is Ending.TOO_MANY


async def test_trying_one_token_after_another_ends_the_socket(live: Rig) -> None:
    async with live.websocket() as client:
        for _ in range(PACKETS_AT_ONCE):
            await client.send(connect_packet("bad token"))
        refusals = await read_to_end(client)
        assert refusals.pop() == "1"
        assert 0 < len(refusals) < PACKETS_AT_ONCE / 5


async def test_an_expired_token_ends_the_namespace_and_a_slow_reader_the_transport(
    live: Rig,
) -> None:
    async with live.websocket() as client:
        await open_session(live, client)
        live.gateway.sessions[-1].end(Ending.UNAUTHENTICATED)
        assert event_of(await text_of(client))[1]["code"] == "unauthenticated"
        assert await text_of(client) == "41/balance,"
        await open_session(live, client)
        live.gateway.sessions[-1].end(Ending.TOO_SLOW)
        told, closed = await read_to_end(client)
        assert event_of(told)[1]["code"] == "too_slow"
        assert closed == "1"


async def test_events_come_once_and_in_order_through_an_upgrade(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        heard = [packet for packet in await poller.get() if packet.startswith("42")]
        session = live.gateway.sessions[-1]
        told = iter(range(10_000))

        async def talk() -> None:
            for number in told:
                session.put(LiveEvent("step", str(number)))
                await asyncio.sleep(0.002)

        talking = asyncio.create_task(talk())
        polling = asyncio.create_task(keep_polling(poller, heard))
        await asyncio.sleep(0.05)
        async with live.websocket_of(poller.sid) as client:
            await client.send("2probe")
            assert await client.recv() == "3probe"
            await polling
            await client.send("5")
            await asyncio.sleep(0.05)
            talking.cancel()
            sent = next(told)
            while len(heard) < sent + 1:
                frame = await text_of(client)
                if frame != "6":
                    heard.append(frame)
        assert heard == [INITIAL, *(f'42/balance,["step",{n}]' for n in range(sent))]


async def keep_polling(poller: Poller, heard: list[str]) -> None:
    """Poll until the server ends it for the upgrade, as clients do."""
    while True:
        packets = await poller.get()
        heard.extend(packet for packet in packets if packet.startswith("42"))
        if "6" in packets:
            return


async def test_an_upgrade_that_fails_leaves_polling_as_it_was(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        async with live.websocket_of(poller.sid):
            with pytest.raises(InvalidStatus):
                async with live.websocket_of(poller.sid):
                    raise AssertionError("a second WebSocket was let in")
        await asyncio.sleep(0.05)
        live.gateway.sessions[-1].put(LiveEvent("step", "1"))
        assert await poller.get() == ['42/balance,["step",1]']


async def test_a_poll_that_is_given_up_ends_its_session(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        session = live.gateway.sessions[-1]
        with pytest.raises(httpx2.TimeoutException):
            await poller.client.get(poller.url, timeout=0.2)
        await until(lambda: session.ended is Ending.LEFT)


async def test_a_client_that_stops_polling_ends_as_too_slow(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        session = live.gateway.sessions[-1]
        for number in range(OUTBOX_LIMIT):
            session.put(LiveEvent("step", str(number)))
        assert session in live.gateway.open_sessions
        told = [*await poller.get(), *await poller.get()]
        assert told == [f'42/balance,["step",{number}]' for number in range(OUTBOX_LIMIT)]
        for number in range(OUTBOX_LIMIT + 1):
            session.put(LiveEvent("step", str(number)))
        assert session.ended is Ending.TOO_SLOW
        assert (await poller.client.get(poller.url)).status_code == 400
    await until(lambda: live.gateway.open_sessions == [])


async def test_two_polls_or_two_posts_at_once_end_the_session(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        session = live.gateway.sessions[-1]
        first, second = await asyncio.gather(
            poller.client.get(poller.url), poller.client.get(poller.url)
        )
        assert {first.status_code, second.status_code} == {200, 400}
        assert session.ended is Ending.LEFT
    live.gateway.delay_s = 0.3
    async with live.polling() as poller:
        first, second = await asyncio.gather(poller.post(connect_packet()), poller.post("3"))
        assert 400 in (first.status_code, second.status_code)
        await asyncio.sleep(0.4)
    live.gateway.delay_s = 0.0
    assert live.gateway.sessions[-1].ended is Ending.LEFT, "it came too late"
    assert live.gateway.sessions[-1].starts == 0


@pytest.mark.parametrize(
    "body",
    [
        b"x" * (FRAME_BYTES_MAX + 1),
        b"\x1e".join([b"3"] * (PACKETS_LIMIT + 1)),
        b"\xff\xfe",
        b"",
        b"d=4%5B",
        b"4" + b"[" * 10_000,
        b"bAAAA",
    ],
    ids=["oversized", "many", "not text", "empty", "jsonp", "deep", "base64"],
)
async def test_a_malformed_post_ends_its_session(live: Rig, body: bytes) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        session = live.gateway.sessions[-1]
        answer = await poller.client.post(poller.url, content=body)
        assert answer.status_code == 400
        assert session.ended is Ending.MALFORMED
        assert (await poller.client.get(poller.url)).status_code == 400


async def test_twenty_messages_in_one_post_are_heard_in_order(live: Rig) -> None:
    async with live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        answer = await poller.post(*(f'42/balance,["n{number}"]' for number in range(20)))
        assert answer.status_code == 200
        heard = [name for name, _ in live.gateway.sessions[-1].heard]
        assert heard == [f"n{number}" for number in range(20)]
        await poller.post("1")
    await until(lambda: not live.gateway.open_sessions)


@pytest.mark.parametrize(
    "query",
    ["&transport=polling&j=1", "&transport=polling&sid=unknown", "&transport=smoke", "&a=1" * 40],
)
async def test_requests_that_make_no_sense_are_refused(live: Rig, query: str) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"http://{live.url}{query}")
        assert answer.status_code == 400


async def test_only_allowed_origins_may_connect_and_read() -> None:
    origins = Origins(named=frozenset(("https://app.example.com",)))
    async with rig(origins=origins) as live, httpx2.AsyncClient() as client:
        url = f"http://{live.url}&transport=polling"
        good = await client.get(url, headers={"Origin": "https://app.example.com"})
        assert good.status_code == 200
        assert good.headers["access-control-allow-origin"] == "https://app.example.com"
        assert good.headers["cache-control"] == "no-store"
        assert "set-cookie" not in good.headers
        own = await client.get(url, headers={"Origin": f"http://127.0.0.1:{live.port}"})
        assert own.status_code == 200
        bad = await client.get(url, headers={"Origin": "https://evil.example.com"})
        assert bad.status_code == 400
        assert "access-control-allow-origin" not in bad.headers
        with pytest.raises(InvalidStatus):
            async with live.websocket(origin="https://evil.example.com"):
                raise AssertionError("a page of another origin was let in")


async def test_nobody_is_let_in_beyond_the_bound_until_somebody_leaves() -> None:
    async with rig(LiveLimits(connections=2)) as live, httpx2.AsyncClient() as client:
        async with live.websocket(), live.websocket():
            answer = await client.get(f"http://{live.url}&transport=polling")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            with pytest.raises(InvalidStatus):
                async with live.websocket():
                    raise AssertionError("a third one was let in")
        await until(lambda: live.adapter.open_sockets == 0)
        async with live.websocket():
            assert live.adapter.open_sockets == 1


async def test_sockets_without_a_session_are_closed_and_others_kept() -> None:
    clock = MovedClock()
    async with rig(clock=clock) as live, live.websocket() as used, live.websocket() as idle:
        await open_session(live, used)
        async with live.polling():
            clock.at_s += IDLE_LIMIT_S + 1
            assert await read_to_end(idle) == ["1"]
            await until(lambda: live.adapter.open_sockets == 1)
        await used.send('42/balance,["still_here"]')
        assert event_of(await text_of(used))[0] == "answered"


async def test_a_client_that_leaves_a_ping_unanswered_is_cut_off() -> None:
    limits = LiveLimits(heartbeat_s=0.2)
    async with rig(limits, ping_timeout_s=0.5) as live, live.polling() as poller:
        await poller.post(connect_packet())
        await poller.get()
        async with live.websocket() as answers, live.websocket() as silent:
            await open_session(live, answers)
            await open_session(live, silent)
            talking = asyncio.create_task(answer_pings(answers))
            assert await poller.get() == ["2"]
            assert "2" in await read_to_end(silent)
            await until(lambda: len(live.gateway.open_sessions) == 1)
            assert live.gateway.sessions[1].ended is None
            talking.cancel()


async def answer_pings(client: ClientConnection) -> None:
    """Do as living clients do."""
    async for frame in client:
        if frame == "2":
            await client.send("3")


async def test_a_stopping_server_tells_clients_to_come_back_and_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    async with rig() as live, live.websocket() as client, live.polling() as poller:
        await open_session(live, client)
        await poller.post(connect_packet())
        await poller.get()
        waiting = asyncio.create_task(poller.get())
        await asyncio.sleep(0.05)
        await live.adapter.close()
        told, closed = await read_to_end(client)
        assert event_of(told)[1]["code"] == "shutting_down"
        assert closed == "1"
        packets = await waiting
        assert event_of(packets[0])[1]["code"] == "shutting_down"
        assert packets[1] == "1"
        assert not live.gateway.open_sessions
        late = await poller.client.get(f"http://{live.url}&transport=polling")
        assert late.status_code == 503
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize("rounds", [8, pytest.param(40, marks=pytest.mark.slow)])
async def test_visits_leave_nothing_behind(rounds: int) -> None:
    async with rig() as live:
        async with live.websocket() as client:
            await open_session(live, client)
        await until(lambda: live.adapter.open_sockets == 0)
        tasks = len(asyncio.all_tasks())
        for _ in range(rounds):
            await asyncio.gather(*(visit(live, number) for number in range(25)))
        await until(lambda: live.adapter.open_sockets == 0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert not live.gateway.open_sessions
        live.gateway.sessions.clear()
        await until(lambda: count_connections(live) == 0)


def count_connections(live: Rig) -> int:
    """Count the connections of an adapter that something still holds."""
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, EngineConnection)]
    return sum(one.engine is live.adapter for one in found)


async def visit(live: Rig, number: int) -> None:
    """Come and go, by turns with a WebSocket, by polling, and refused."""
    if number == 4:
        async with live.polling() as poller:
            await poller.post(connect_packet())
            await poller.get()
            await poller.post("1")
        return
    async with live.websocket() as client:
        if number % 5 == 3:
            await joined(client, "bad token")
        else:
            await open_session(live, client)
