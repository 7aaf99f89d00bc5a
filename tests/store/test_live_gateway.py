"""The gateway on a real database: what each client hears is the journal of its own accounts, and nothing else."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from steelyard.access.model import Role
from steelyard.access.users import UserEdit, change_user
from steelyard.balances.model import NewAccount
from steelyard.balances.store import open_accounts
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.post_in import post_in
from steelyard.live.limits import REFUSALS_MAX, LiveLimits
from steelyard.live.outbox import OUTBOX_LIMIT
from steelyard.live.transport import Ending, Refused
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.currencies import find_currency
from steelyard.testing.clock import FrozenClock
from tests.live_kit import QUICK, charge_many, stage_of
from tests.world import World

OTHER = TenantId("other")


async def test_a_client_hears_each_change_of_its_account_once_and_in_order(world: World) -> None:
    account = await world.open_account(10_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        await charge_many(world, account, 60)
        await client.until("transaction_completed", 60)
        assert client.completed == list(range(2, 62))
        assert client.last["newBalance"] == 99.4
        assert stage.gateway.figures.heal_reads <= 2


async def test_missed_changes_are_told_again_under_their_old_names_then_the_balance(
    world: World,
) -> None:
    account = await world.open_account(1_000, user="ann")
    ledger = world.ledger()
    await ledger.charge(account, 100)
    hold = await ledger.hold(account, 300)
    await ledger.capture(hold.transaction, 200)
    async with stage_of(world) as stage:
        client = await stage.connect("ann", positions={str(account): 1})
        told = [(one["event"], one["seq"], one.get("replayed")) for one in client.heard]
        assert told == [
            ("balance_updated", 2, True),
            ("transaction_completed", 2, True),
            ("balance_updated", 3, True),
            ("balance_updated", 4, True),
            ("transaction_completed", 4, True),
            ("balance_initial", 4, None),
        ]
        assert [one["transactionType"] for one in client.heard[:5]] == [
            "charge",
            "charge",
            "hold",
            "charge",
            "charge",
        ]
        assert (client.last["balance"], client.last["held"]) == (7, 0)
        assert client.last["resumed"] is True


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (None, {"resumed": False}),
        (0, {"resumed": False, "reason": "gap", "missed": 205}),
        (4, {"resumed": False, "reason": "gap", "missed": 201}),
        (205, {"resumed": True}),
        (206, {"resumed": False, "reason": "unknown"}),
        (2**62, {"resumed": False, "reason": "unknown"}),
    ],
)
async def test_a_position_too_far_back_or_unknown_gives_the_balance_alone(
    world: World, position: int | None, expected: dict[str, object]
) -> None:
    account = await world.open_account(1_000, user="ann")
    await charge_many(world, account, 204)
    positions = {} if position is None else {str(account): position}
    async with stage_of(world) as stage:
        client = await stage.connect("ann", positions=positions)
        [only] = client.heard
        said = {name: only[name] for name in ("resumed", "reason", "missed") if name in only}
        assert (only["event"], only["seq"], said) == ("balance_initial", 205, expected)


async def test_all_of_two_hundred_missed_changes_are_told_though_the_reader_stalls(
    world: World,
) -> None:
    account = await world.open_account(1_000, user="ann")
    await charge_many(world, account, 200)
    async with stage_of(world) as stage:
        client = await stage.open(stage.token("ann"), positions={str(account): 1})
        assert client.session is not None
        client.is_stalled = True
        client.session.start()
        await asyncio.sleep(0.2)
        await charge_many(world, account, 20)
        assert len(client.session.outbox) <= OUTBOX_LIMIT
        client.read_on()
        await client.until_at(221)
        assert client.completed == list(range(2, 222))


async def test_what_happens_while_a_client_joins_falls_between_nothing(world: World) -> None:
    account = await world.open_account(10_000, user="ann")
    async with stage_of(world) as stage:
        charging = asyncio.create_task(charge_many(world, account, 300))
        clients = []
        while not charging.done():
            client = await stage.open(stage.token("ann"), positions={str(account): 1})
            assert client.session is not None
            client.session.start()
            clients.append(client)
            if len(clients) > 8:
                clients[-9].session.leave()  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
        await charging
        for client in clients[-8:]:
            await client.until_at(301)
            begun = next(one for one in client.heard if one["event"] == "balance_initial")
            first = 2 if begun["resumed"] else begun["seq"] + 1
            assert client.completed == list(range(first, 302))


async def test_a_deaf_gateway_is_healed_by_the_sweep_and_says_so(world: World) -> None:
    account = await world.open_account(10_000, user="ann")
    async with stage_of(world, bus=InProcessBus()) as stage:
        client = await stage.connect("ann")
        await charge_many(world, account, 450)
        await client.until_at(451)
        assert client.completed == list(range(2, 452))
        assert stage.gateway.figures.sweep_finds == 450


async def test_writers_that_commit_late_are_heard_in_their_place(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    elsewhere = await world.open_account(1_000, user="bob")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        order = Order(
            tenant=DEFAULT_TENANT, kind=Kind.CHARGE, account=account, amount=5, key="late"
        )
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await post_in(uow.connection, order, now=world.clock.now())
            await charge_many(world, elsewhere, 10)  # later ids, committed before
            assert client.completed == []
        await charge_many(world, account, 3)
        await client.until_at(5)
        assert client.completed == [2, 3, 4, 5]


async def test_tenants_with_the_same_user_names_hear_only_their_own(world: World) -> None:
    await world.make_tenant(OTHER)
    account = await world.open_account(1_000, user="ann")
    foreign = await world.open_account(5_000, tenant=OTHER, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        their = await stage.open(stage.token("ann", tenant=OTHER))
        assert their.session is not None
        their.session.start()
        await their.until("balance_initial")
        await world.ledger().charge(account, 1)
        await world.ledger(OTHER).charge(foreign, 2)
        await asyncio.gather(client.until_at(2), their.until_at(2))
        assert {one["accountId"] for one in client.heard} == {str(account)}
        assert {one["accountId"] for one in their.heard} == {str(foreign)}
        assert (client.last["newBalance"], their.last["newBalance"]) == (9.99, 49.98)


async def test_an_event_of_another_tenants_account_of_the_same_number_reaches_nobody(
    world: World,
) -> None:
    account = await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        await world.ledger().charge(account, 1)
        await client.until_at(2)
        before = len(client.heard)
        real = world.heard.events[-1]
        for fields in ({"tenant": OTHER}, {"tenant": OTHER, "seq": None}):
            forged = {**{name: getattr(real, name) for name in real.__struct_fields__}, **fields}
            world.bus.publish(type(real)(**{**forged, "event": "balance_insufficient"}))
        await asyncio.sleep(0.2)
        assert len(client.heard) == before


async def test_a_refusal_is_told_live_with_what_is_missing(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        with pytest.raises(Exception, match="needed"):
            await world.ledger().charge(account, 1_550)
        told = await client.until("balance_insufficient")
        assert (told["requiredAmount"], told["currentBalance"], told["shortfall"]) == (
            15.5,
            10,
            5.5,
        )
        topup = await world.ledger().request_topup(account, 500, by="ann")
        await world.ledger().process_topup(topup.id, approve=False, by="boss")
        failed = await client.until("transaction_failed")
        assert (failed["transactionId"], failed["transactionType"]) == (topup.id, "topup")
        assert len(client.of("balance_updated")) == 0


async def test_a_user_without_an_account_hears_of_its_first_one(world: World) -> None:
    async with stage_of(world) as stage:
        client = await stage.connect("new")
        assert client.heard == [{"event": "balance_initial", "balance": 0, "accountId": None}]
        account = await world.open_account(700, user="new")
        shown = await client.until("balance_initial", 2)
        assert (shown["accountId"], shown["seq"] in (0, 1)) == (str(account), True)
        await client.until_at(1)


async def test_another_primary_account_takes_the_place_of_the_first(world: World) -> None:
    first = await world.open_account(700, user="ann")
    clock = FrozenClock(world.clock.now())
    async with stage_of(world, clock=clock) as stage:
        client = await stage.connect("ann")
        wanted = NewAccount(UserId("ann"), find_currency("GBP"), is_primary=True)
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            [(second, _)] = await open_accounts(uow, [wanted], now=world.clock.now())
        clock.move(timedelta(seconds=16))
        shown = await client.until("balance_initial", 2)
        assert (shown["accountId"], shown["balance"]) == (str(second), 0)
        before = len(client.heard)
        await world.ledger().charge(first, 1)
        await asyncio.sleep(0.2)
        assert len(client.heard) == before


async def test_all_accounts_are_shown_up_to_the_limit(world: World) -> None:
    accounts = [await world.open_account(100 + n, user="ann") for n in range(5)]
    async with stage_of(world, replace(QUICK, accounts=4)) as stage:
        client = await stage.connect("ann", accounts="all")
        await client.until("balance_initial", 4)
        await world.ledger().transfer(accounts[0], accounts[3], 50)
        await client.until("transaction_completed", 2)
        assert {one["accountId"] for one in client.of("balance_initial")} == {
            str(account) for account in accounts[:4]
        }
        sides = {one["accountId"]: one["amount"] for one in client.of("transaction_completed")}
        assert sides == {str(accounts[0]): -0.5, str(accounts[3]): 0.5}
        assert len({one["transactionId"] for one in client.of("transaction_completed")}) == 1


async def test_a_database_put_back_to_an_earlier_state_is_told_as_unknown(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        real = world.heard.events[-1]
        fields = {name: getattr(real, name) for name in real.__struct_fields__}
        world.bus.publish(type(real)(**{**fields, "seq": 2, "posted": 900}))
        told = await client.until("balance_initial", 2)
        assert (told["seq"], told["balance"], told["resumed"]) == (1, 10, False)
        assert told["reason"] == "unknown"
        await world.ledger().charge(account, 1)
        await client.until_at(2)
        assert client.last["newBalance"] == 9.99


# --- tokens ------------------------------------------------------------------------------------


async def test_a_token_is_announced_to_end_and_then_ends_the_session(world: World) -> None:
    await world.open_account(1_000, user="ann")
    clock = FrozenClock(world.clock.now())
    async with stage_of(world, clock=clock) as stage:
        token = stage.token("ann", lifetime=timedelta(seconds=90))
        client = await stage.open(token)
        assert client.session is not None
        client.session.start()
        await client.until("balance_initial")
        await stage.gateway.sweep.end_expired()
        assert client.of("auth_expiring") == []
        clock.move(timedelta(seconds=31))
        warned = await client.until("auth_expiring")
        assert warned["expiresAt"].startswith(
            (clock.now() + timedelta(seconds=59)).isoformat()[:17]
        )
        assert client.ending is None
        clock.move(timedelta(seconds=60))
        assert await client.until_ended() is Ending.UNAUTHENTICATED
        assert stage.gateway.count == 0
        with pytest.raises(Refused) as refused:
            await stage.open(token)
        assert refused.value.ending is Ending.UNAUTHENTICATED


async def test_a_newer_token_of_the_same_caller_keeps_the_session(world: World) -> None:
    await world.open_account(1_000, user="ann")
    clock = FrozenClock(world.clock.now())
    async with stage_of(world, clock=clock) as stage:
        client = await stage.connect("ann")
        clock.move(timedelta(minutes=59, seconds=30))
        await client.until("auth_expiring")
        for other in (
            stage.token("bob"),
            stage.token("ann", Role.ADMIN),
            stage.token("ann", tenant=OTHER),
            "nonsense",
            None,
        ):
            answer = await client.say("auth_refresh", token=other)
            assert answer["code"] in ("forbidden", "unauthenticated", "invalid_input"), other
        answer = await client.say("auth_refresh", token=stage.token("ann"))
        refreshed = await client.until("auth_refreshed")
        assert answer == {"expiresAt": refreshed["expiresAt"]}
        clock.move(timedelta(minutes=30))
        await stage.gateway.sweep.end_expired()
        assert client.ending is None


async def test_a_revoked_token_ends_its_sessions_and_no_others(world: World) -> None:
    for user in ("ann", "bob"):
        await world.open_account(1_000, user=user)
    clock = FrozenClock(world.clock.now())
    async with stage_of(world, clock=clock) as stage:
        ann, bob = await stage.connect("ann"), await stage.connect("bob")
        later = clock.now() + timedelta(seconds=1)
        async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
            await change_user(uow, UserId("ann"), UserEdit(revokes_tokens=True), now=later)
        await asyncio.sleep(0.2)
        assert ann.ending is None  # nobody has asked yet
        clock.move(timedelta(seconds=16))
        assert await ann.until_ended() is Ending.UNAUTHENTICATED
        await asyncio.sleep(0.2)
        assert bob.ending is None


@pytest.mark.parametrize(
    ("role", "user", "ending"),
    [
        (Role.USER, "bob", Ending.FORBIDDEN),
        (Role.USER, "", Ending.MALFORMED),
        (Role.USER, "ann", None),
        (Role.OPERATOR, "bob", None),
        (Role.ADMIN, "bob", None),
        (Role.SERVICE, "bob", None),
    ],
)
async def test_whose_screen_a_role_may_see(
    world: World, role: Role, user: str, ending: Ending | None
) -> None:
    account = await world.open_account(1_000, user="bob")
    async with stage_of(world) as stage:
        token = stage.token("ann", role)
        if ending is not None:
            with pytest.raises(Refused) as refused:
                await stage.open(token, user=user)
            assert refused.value.ending is ending
            return
        client = await stage.open(token, user=user)
        assert client.session is not None
        client.session.start()
        told = await client.until("balance_initial")
        assert told["accountId"] == (str(account) if user == "bob" else None)


# --- bounds ------------------------------------------------------------------------------------


async def test_connections_are_bounded_per_user_and_process(world: World) -> None:
    limits = replace(QUICK, connections=5, connections_per_user=3)
    async with stage_of(world, limits) as stage:
        clients = [await stage.open(stage.token("ann")) for _ in range(3)]
        with pytest.raises(Refused) as refused:
            await stage.open(stage.token("ann"))
        assert refused.value.ending is Ending.TOO_MANY
        await stage.open(stage.token("bob"))
        await stage.open(stage.token("cyd"))
        with pytest.raises(Refused) as refused:
            await stage.open(stage.token("dan"))
        assert refused.value.ending is Ending.TOO_MANY
        for client in clients:
            assert client.session is not None
            client.session.leave()
            client.session.leave()
        assert stage.gateway.count == 2
        await stage.open(stage.token("ann"))
        assert stage.gateway.figures.sessions["websocket"] == 3


async def test_nothing_is_kept_of_sessions_that_have_ended(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        for _ in range(20):
            client = await stage.connect("ann", positions={str(account): 0})
            assert client.session is not None
            await client.say("get_current_balance")
            client.session.leave()
        gateway = stage.gateway
        assert (gateway.rooms, gateway.watches, gateway.count) == ({}, {}, 0)
        await world.ledger().charge(account, 1)  # nobody listens, and nothing fails
        await asyncio.sleep(0.1)
        assert world.bus.failures == 0


async def test_a_reader_that_stalls_is_ended_and_comes_back_to_the_newest(
    world: World,
) -> None:
    account = await world.open_account(100_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        assert client.session is not None
        await charge_many(world, account, 5)
        await client.until_at(6)
        client.is_stalled = True
        other = await stage.connect("ann")
        await charge_many(world, account, 300)
        assert await client.until_ended() is Ending.TOO_SLOW
        assert len(client.session.outbox) == 0
        await other.until_at(306)
        assert other.completed == list(range(7, 307))
        again = await stage.connect("ann", positions={str(account): client.completed[-1]})
        assert (again.last["seq"], again.last["missed"], again.last["reason"]) == (306, 300, "gap")


async def test_a_flood_of_messages_is_refused_and_then_ended(world: World) -> None:
    await world.open_account(1_000, user="ann")
    await world.open_account(1_000, user="bob")
    clock = FrozenClock(world.clock.now())
    async with stage_of(world, LiveLimits(sweep_interval_s=60), clock=clock) as stage:
        ann, bob = await stage.connect("ann"), await stage.connect("bob")
        for _ in range(20):
            assert "balance" in await ann.say("get_current_balance")
        refused = await ann.say("get_current_balance")
        assert refused["code"] == "rate_limited"
        assert refused["retry_after_ms"] == 200
        assert ann.of("error")[-1]["code"] == "rate_limited"
        clock.move(timedelta(seconds=0.2))
        assert "balance" in await ann.say("get_current_balance")
        for _ in range(REFUSALS_MAX + 1):
            await ann.say("get_current_balance")
        assert await ann.until_ended() is Ending.TOO_MANY
        assert "balance" in await bob.say("get_current_balance")


async def test_balances_are_paced_and_the_newest_arrives_before_its_transactions(
    world: World,
) -> None:
    account = await world.open_account(10_000, user="ann")
    limits = replace(QUICK, updates=3, updates_per_s=20.0)
    async with stage_of(world, limits) as stage:
        client = await stage.connect("ann")
        for _ in range(40):
            await world.ledger().charge(account, 1)
        await client.until("transaction_completed", 40)
        updates = client.of("balance_updated")
        assert len(updates) < 40
        assert updates[-1]["newBalance"] == 99.6
        assert [one["prevSeq"] for one in updates[1:]] == [one["seq"] for one in updates[:-1]]
        covered = 1
        for one in client.heard:
            if one["event"] == "balance_updated":
                covered = one["seq"]
            elif one["event"] == "transaction_completed":
                assert one["seq"] <= covered
        assert client.completed == list(range(2, 42))


# --- what clients say --------------------------------------------------------------------------


async def test_a_balance_asked_for_is_the_databases_though_the_bus_is_deaf(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    async with stage_of(world, replace(QUICK, sweep_interval_s=60), bus=InProcessBus()) as stage:
        client = await stage.connect("ann")
        await world.ledger().charge(account, 100)
        assert await client.say("get_current_balance") == {"balance": 9}
        names = [one["event"] for one in client.heard[1:]]
        assert names == [
            "balance_updated",
            "transaction_completed",
            "balance_current",
            "balance_initial",
        ]
        assert client.last["seq"] == 2


async def test_the_last_events_are_told_again_and_leave_the_position_alone(world: World) -> None:
    account = await world.open_account(1_000, user="ann")
    await charge_many(world, account, 30)
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        assert client.session is not None
        assert await client.say("get_recent_events", limit=5) == {"count": 5}
        assert [(one["seq"], one["replayed"]) for one in client.of("transaction_completed")] == [
            (seq, True) for seq in range(27, 32)
        ]
        assert client.session.sent_positions == {account: 31}
        await world.ledger().charge(account, 1)
        await client.until("transaction_completed", 6)
        assert client.completed[-1] == 32


async def test_subscribing_answers_and_may_widen_to_all_accounts(world: World) -> None:
    first = await world.open_account(1_000, user="ann")
    second = await world.open_account(500, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        assert await client.say("subscribe_balance") == {"userId": "ann", "balance": 10}
        await client.say("subscribe_balance", accounts="all")
        shown = await client.until("balance_initial", 2)
        assert (shown["accountId"], first) == (str(second), AccountId(first))


@pytest.mark.parametrize(
    ("event", "data", "code"),
    [
        ("nonsense", {}, "unknown_event"),
        ("join_room", {"room": "user:bob"}, "unknown_event"),
        ("subscribe_balance", {"userId": "bob"}, "invalid_input"),
        ("subscribe_balance", {"accounts": ["1"]}, "malformed_frame"),
        ("subscribe_balance", [1], "invalid_input"),
        ("get_current_balance", {"accountId": "1"}, "invalid_input"),
        ("get_recent_events", {"limit": 101}, "invalid_input"),
        ("get_recent_events", {"limit": True}, "invalid_input"),
        ("get_recent_events", {"accountId": "999"}, "invalid_input"),
        ("get_recent_events", {"accountId": 1}, "invalid_input"),
        ("get_recent_events", {"accountId": "²"}, "invalid_input"),
        ("auth_refresh", {}, "invalid_input"),
        ("auth_refresh", {"token": "x" * 10_000}, "unauthenticated"),
    ],
)
async def test_what_makes_no_sense_is_answered_with_an_error_and_shows_nobody_anything(
    world: World, event: str, data: object, code: str
) -> None:
    await world.open_account(1_000, user="ann")
    await world.open_account(1_000, user="bob")
    async with stage_of(world) as stage:
        ann, bob = await stage.connect("ann"), await stage.connect("bob")
        before = len(bob.heard)
        assert ann.session is not None
        answer = await ann.session.hear(event, data)
        assert answer is not None
        assert f'"{code}"' in answer
        assert [one["code"] for one in ann.of("error")] == [code]
        assert len(bob.heard) == before
        assert (await ann.say("get_current_balance"))["balance"] == 10


async def test_nonsense_in_a_row_ends_the_session(world: World) -> None:
    await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        for _ in range(10):
            await client.say("nonsense")
        assert client.ending is None
        await client.say("get_current_balance")  # makes sense: counting begins again
        for _ in range(11):
            await client.say("nonsense")
        assert client.ending is Ending.MALFORMED


async def test_the_end_of_the_process_ends_every_session(world: World) -> None:
    await world.open_account(1_000, user="ann")
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        waiting = await stage.open(stage.token("ann"))
        await stage.gateway.close()
        assert (client.ending, waiting.ending) == (Ending.SHUTTING_DOWN, Ending.SHUTTING_DOWN)
        with pytest.raises(Refused) as refused:
            await stage.open(stage.token("ann"))
        assert refused.value.ending is Ending.SHUTTING_DOWN


async def test_two_who_wait_for_a_stalled_reader_go_on_together(world: World) -> None:
    account = await world.open_account(100_000, user="ann")
    await charge_many(world, account, 120)
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        client.is_stalled = True
        asked = [asyncio.create_task(client.say("get_recent_events")) for _ in range(2)]
        await asyncio.sleep(0.3)
        assert [one.done() for one in asked] == [False, False]
        client.read_on()
        assert await asyncio.gather(*asked) == [{"count": 100}] * 2
        await client.until("transaction_completed", 200)


async def test_a_client_that_leaves_while_it_is_waited_for_is_let_go(world: World) -> None:
    account = await world.open_account(100_000, user="ann")
    await charge_many(world, account, 120)
    async with stage_of(world) as stage:
        client = await stage.connect("ann")
        assert client.session is not None
        client.is_stalled = True
        asked = asyncio.create_task(client.say("get_recent_events"))
        await asyncio.sleep(0.3)
        assert not asked.done()
        client.session.leave()
        assert await asked is None
        assert stage.gateway.count == 0
