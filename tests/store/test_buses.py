"""Every bus keeps the same promises; through Redis only what an own process signed reaches a listener."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import AbstractConnection

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.runtime.bus import BalanceEvent, InProcessBus
from steelyard.runtime.cache import CachedBalance
from steelyard.runtime.redis.connect import RedisServer
from steelyard.runtime.redis.hints import MESSAGE_BYTES_MAX, Hints
from steelyard.runtime.redis.writer import MESSAGES_MAX
from steelyard.runtime.valkey.diagnose import diagnose_redis
from steelyard.testing.bus_contract import (
    BUS_CONTRACT,
    BusCheck,
    BusesUnderTest,
    heard_all,
    sample_refusal,
    sample_step,
)
from tests.redis_kit import KEY, Users, Valkey, new_key, processes, running_valkey, told, until


@pytest.mark.parametrize("check", BUS_CONTRACT, ids=lambda check: check.__name__)
async def test_the_bus_in_process_keeps_its_promises(check: BusCheck) -> None:
    bus = InProcessBus()
    await check(BusesUnderTest(bus, bus))


@pytest.mark.parametrize("check", BUS_CONTRACT, ids=lambda check: check.__name__)
async def test_the_bus_through_redis_keeps_its_promises(check: BusCheck, valkey: Valkey) -> None:
    async with processes(valkey.url, 2) as (one, two):
        await check(BusesUnderTest(one.bus, two.bus))


class Subscriber:
    """An old listener: `redis-cli SUBSCRIBE`, in Python."""

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next message and its channel."""
        answer = await self.connection.read_response(timeout=10)
        assert answer is not None, "no message came"
        return answer[-2].decode(), json.loads(answer[-1])


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[Subscriber]:
    """Listen to every channel."""
    connection = await RedisServer(url).connect("listener")
    await connection.send_command("PSUBSCRIBE", "*")
    await connection.read_response()
    try:
        yield Subscriber(connection)
    finally:
        await connection.disconnect()


async def test_messages_are_as_the_reference_has_them(valkey: Valkey) -> None:
    users = Users(users={AccountId(2): UserId('an"na')}, others={AccountId(2)})
    at = datetime(2026, 11, 4, 10, 30, tzinfo=UTC)
    async with processes(valkey.url, 1, owners=users) as (one,), subscribed(valkey.url) as old:
        one.bus.publish(msgspec.structs.replace(sample_step(4), at=at))
        channel, message = await old.next()
        assert channel == "balance:updates"
        assert len(message.pop("origin")) == 16
        assert len(message.pop("signature")) == 64
        assert message == {
            "event": "balance_updated",
            "userId": "user-1",
            "newBalance": 993.75,
            "previousBalance": 995.25,
            "transactionId": "1-4",
            "transactionType": "charge",
            "amount": -1.5,
            "timestamp": "2026-11-04T10:30:00Z",
            "accountId": "1",
            "currency": "GBP",
            "seq": 4,
            "prevSeq": 3,
            "posted": 994,
            "held": 0.25,
            "kind": "charge",
        }
        _, completed = await old.next()
        assert completed["event"] == "transaction_completed"
        assert completed["userId"] == "user-1"
        assert completed["transactionId"] == "1-4"
        assert completed["newBalance"] == 993.75
        refusal = msgspec.structs.replace(
            sample_refusal(account=2, tenant="acme"), user=UserId('an"na')
        )
        one.bus.publish(refusal)
        channel, message = await old.next()
        assert channel == "t:acme:balance:updates:accounts"
        assert message["event"] == "balance_insufficient"
        assert message["userId"] == 'an"na'
        assert "seq" not in message
        assert {
            name: message[name]
            for name in ("newBalance", "requiredAmount", "currentBalance", "shortfall")
        } == {"newBalance": 10, "requiredAmount": 12, "currentBalance": 10, "shortfall": 2}


async def test_every_process_holds_a_real_subscription(valkey: Valkey) -> None:
    async with processes(valkey.url, 2):
        asked = ("PUBSUB", "NUMSUB", "balance:updates", "balance:updates:accounts")
        assert await valkey.ask(*asked) == [
            b"balance:updates",
            2,
            b"balance:updates:accounts",
            2,
        ]


async def test_books_are_told_to_nobody_and_a_process_hears_itself_once(valkey: Valkey) -> None:
    heard: list[BalanceEvent] = []
    async with processes(valkey.url, 1) as (one,), subscribed(valkey.url) as old:
        one.bus.subscribe(heard.append)
        book = msgspec.structs.replace(sample_step(1, account=7), user=None)
        one.bus.publish(book)
        one.bus.publish(sample_step(2))
        _, message = await old.next()
        assert message["seq"] == 2
        await asyncio.sleep(0.1)
        assert [event.seq for event in heard] == [1, 2]
        assert one.link.counts.heard == 0


async def test_what_came_from_redis_is_not_sent_back(valkey: Valkey) -> None:
    async with processes(valkey.url, 3) as (one, two, three):
        heard: list[BalanceEvent] = []
        three.bus.subscribe(heard.append)
        one.bus.publish(sample_step(1))
        await heard_all(heard, 1)
        await told(two, three)
        assert (two.link.counts.published, three.link.counts.published) == (0, 0)
        assert len(heard) == 1


FORGERIES = {
    "unsigned": (b'{"event":"balance_updated","userId":"user-1","accountId":"1","newBalance":1}'),
    "no JSON": b"balance!",
    "no object": b"[1,2]",
    "empty": b"",
    "nested too deeply": b"[" * 4000 + b"]" * 4000,
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_what_nobody_signed_is_counted_and_told_to_nobody(
    valkey: Valkey, forgery: str
) -> None:
    heard: list[BalanceEvent] = []
    suspects: list[tuple[TenantId, AccountId | None, UserId | None]] = []
    async with processes(valkey.url, 1) as (one,):
        one.bus.subscribe(heard.append)
        one.link.hearing.suspect = lambda *named: suspects.append(named)
        await valkey.ask("PUBLISH", "balance:updates", FORGERIES[forgery].decode())
        await until(lambda: one.link.counts.unsigned == 1)
        assert heard == []
        named = [(DEFAULT_TENANT, AccountId(1), UserId("user-1"))]
        assert suspects == (named if forgery == "unsigned" else [])


async def test_a_signature_holds_for_its_key_its_channel_and_its_text_only(valkey: Valkey) -> None:
    heard: list[BalanceEvent] = []
    async with processes(valkey.url, 1) as (one,):
        one.bus.subscribe(heard.append)
        [(channel, good), _] = Hints(KEY, "0" * 16).write(sample_step(1), is_primary=True)
        [(_, other_key), _] = Hints(new_key(), "0" * 16).write(sample_step(2), is_primary=True)
        changed = good.replace('"seq":1', '"seq":9')
        for place, text in (
            (channel, other_key),
            (channel, changed),
            (f"t:acme:{channel}", good),
            (f"{channel}:accounts", good),
        ):
            await valkey.ask("PUBLISH", place, text)
        await until(lambda: one.link.counts.unsigned == 4)
        assert heard == []
        await valkey.ask("PUBLISH", channel, good)
        await until(lambda: len(heard) == 1)
        assert heard[0].seq == 1


async def test_a_refusal_is_told_once_and_not_when_it_is_old(valkey: Valkey) -> None:
    heard: list[BalanceEvent] = []
    async with processes(valkey.url, 1) as (one,):
        one.bus.subscribe(heard.append)
        hints = Hints(KEY, "0" * 16)
        old = msgspec.structs.replace(
            sample_refusal(), at=datetime.now(UTC) - timedelta(seconds=40)
        )
        [(channel, fresh)] = hints.write(sample_refusal(), is_primary=True)
        [(_, late)] = hints.write(old, is_primary=True)
        for message in (fresh, fresh, late):
            await valkey.ask("PUBLISH", channel, message)
        await until(lambda: one.link.counts.expired == 2)
        assert len(heard) == 1


async def test_what_is_too_long_or_signed_nonsense_is_counted(valkey: Valkey) -> None:
    heard: list[BalanceEvent] = []
    async with processes(valkey.url, 1) as (one,):
        one.bus.subscribe(heard.append)
        hints = Hints(KEY, "0" * 16)
        [(channel, good), _] = hints.write(sample_step(1), is_primary=True)
        nonsense = [
            hints._signed(channel, '{"event":"balance_updated","userId":"user-1"'),
            hints._signed(channel, good.partition(',"origin"')[0].replace("GBP", "???")),
            hints._signed(channel, good.partition(',"origin"')[0].replace('"seq":1', '"seq":0')),
            "x" * (MESSAGE_BYTES_MAX + 1),
        ]
        for message in nonsense:
            await valkey.ask("PUBLISH", channel, message)
        await valkey.ask("PUBLISH", "t:not a tenant:balance:updates", good)
        await until(lambda: one.link.counts.malformed == 5)
        assert heard == []
        assert one.link.counts.unsigned == 0


async def test_a_lost_subscription_is_made_again_and_said(valkey: Valkey) -> None:
    resumed: list[int] = []
    heard: list[BalanceEvent] = []
    async with processes(valkey.url, 2) as (one, two):
        two.bus.subscribe(heard.append)
        two.link.hearing.resumed = lambda: resumed.append(1)
        await valkey.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: two.link.counts.reconnects == 1)
        assert resumed == [1]
        one.bus.publish(sample_step(1))
        await until(lambda: len(heard) == 1)


async def test_a_server_that_hangs_is_noticed_and_heard_again() -> None:
    async with running_valkey() as valkey, processes(valkey.url, 2) as (one, two):
        heard: list[BalanceEvent] = []
        two.bus.subscribe(heard.append)
        valkey.pause()
        one.bus.publish(sample_step(1))
        await until(lambda: not two.link.counts.is_subscribed)
        valkey.resume()
        await until(lambda: two.link.counts.is_subscribed)
        one.bus.publish(sample_step(2))
        await until(lambda: any(event.seq == 2 for event in heard))


async def test_while_a_server_is_away_the_newest_wait_and_the_oldest_are_dropped() -> None:
    async with running_valkey() as valkey, processes(valkey.url, 2) as (one, two):
        heard: list[BalanceEvent] = []
        two.bus.subscribe(heard.append)
        valkey.kill()
        for seq in range(1, MESSAGES_MAX + 101):
            one.bus.publish(sample_step(seq))
        assert one.link.counts.dropped == 100
        assert one.link.writer.waiting == MESSAGES_MAX
        assert not one.link.writer.is_told_since(float("inf"))
        await valkey.restart()
        await until(
            lambda: two.link.counts.is_subscribed and one.link.writer.waiting == 0, deadline_s=60
        )
        one.bus.publish(sample_step(MESSAGES_MAX + 101))
        await until(lambda: bool(heard) and heard[-1].seq == MESSAGES_MAX + 101, deadline_s=60)
        seqs = [event.seq or 0 for event in heard]
        assert seqs == sorted(set(seqs))
        assert seqs[0] > 100


async def test_a_flood_is_dropped_by_nobody_but_named_to_few(valkey: Valkey) -> None:
    suspects: list[UserId | None] = []
    async with processes(valkey.url, 1) as (one,):
        one.link.hearing.suspect = lambda tenant, account, user: suspects.append(user)
        script = "for i = 1, 3000 do redis.call('PUBLISH', KEYS[1], ARGV[1]) end"
        await valkey.ask("EVAL", script, 1, "balance:updates", '{"userId":"user-1"}')
        await until(lambda: one.link.counts.unsigned == 3000, deadline_s=30)
        assert 100 <= len(suspects) < 3000


async def test_no_password_is_ever_told() -> None:
    server = RedisServer("redis://someone:top-secret@127.0.0.1:1/3")
    assert server.name == "redis://127.0.0.1:1/3"
    assert "secret" not in repr(server)
    with pytest.raises(Exception) as failure:
        await server.connect("test")
    assert "secret" not in f"{failure.value!r} {failure.value}"


async def test_the_rights_that_the_how_to_gives_are_enough(valkey: Valkey) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "run-several-servers.md"
    [line] = [one for one in page.read_text().splitlines() if one.startswith("ACL SETUSER")]
    await valkey.ask(*line.replace(">…", ">only-a-test").split())
    others = Users(others={AccountId(2)})
    url = f"{valkey.url}?username=steelyard&password=only-a-test"
    heard: list[BalanceEvent] = []
    try:
        async with processes(url, 2, owners=others) as (one, two):
            two.bus.subscribe(heard.append)
            for tenant in (DEFAULT_TENANT, TenantId("acme")):
                for account in (1, 2):
                    one.link.cache.set_if_newer(tenant, AccountId(account), CachedBalance(1, 2, 1))
                    one.bus.publish(sample_step(1, account=account, tenant=tenant))
            await heard_all(heard, 4)
            for tenant in (DEFAULT_TENANT, TenantId("acme")):
                found = await two.link.cache.get_many(tenant, [AccountId(1), AccountId(2)])
                assert len(found) == 2
            await one.link.cache.forget(DEFAULT_TENANT, [AccountId(1)])
            assert await two.link.cache.get(DEFAULT_TENANT, AccountId(1)) is None
            assert (one.link.counts.failures, two.link.counts.failures) == (0, 0)
            assert (await diagnose_redis(url)).ok
    finally:
        await valkey.ask("ACL", "DELUSER", "steelyard")


@given(
    seq=st.integers(min_value=1, max_value=2**53),
    posted=st.integers(min_value=-(2**51), max_value=2**51),
    held=st.integers(min_value=0, max_value=2**51),
    amount=st.integers(min_value=-(2**51), max_value=2**51),
    user=st.text(min_size=1, max_size=128).filter(str.isprintable),
    currency=st.sampled_from(["GBP", "JPY", "KWD", "CLF", "ZMW"]),
)
def test_every_step_is_read_as_it_was_written(
    seq: int, posted: int, held: int, amount: int, user: str, currency: str
) -> None:
    event = msgspec.structs.replace(
        sample_step(seq, currency=currency),
        posted=posted,
        held=held,
        amount=amount,
        user=UserId(user),
    )
    hints = Hints(KEY, "0" * 16)
    for is_primary in (True, False):
        (channel, message), *_ = hints.write(event, is_primary=is_primary)
        data = message.encode()
        assert hints.is_own(data)
        assert hints.is_signed(channel, data)
        assert hints.read(DEFAULT_TENANT, data) == event
        assert json.loads(data)["userId"] == user
