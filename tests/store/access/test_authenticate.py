"""Who is let in, and how soon one who may no longer is not."""

from datetime import timedelta
from typing import Any

import pytest

from steelyard.access.api_keys import KeyOrder, create_api_key, list_api_keys, revoke_api_key
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import Principal, Role, UserStatus
from steelyard.access.users import NewUser, UserEdit, change_user, create_user
from steelyard.core.errors import DatabaseUnavailable, InvalidInput, NotFound
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database
from tests.store.access.access_kit import ACME, ZETA, Door, behind_the_wall, make_tenants, token
from tests.unit.access.token_kit import NOW
from tests.world import FreshDatabase


@pytest.fixture
async def door(database: Database) -> Door:
    await make_tenants(database)
    return Door.on(database)


async def refused(door: Door, credential: str) -> Refusal:
    with pytest.raises(Unauthenticated) as caught:
        await door.enter(credential)
    return caught.value.reason


async def make_key(database: Database, tenant: TenantId = ACME, **order: Any) -> tuple[str, str]:
    async with database.unit_of_work(tenant) as uow:
        new = await create_api_key(
            uow,
            KeyOrder(**{"name": "till", "role": Role.SERVICE, **order}),
            created_by="boss",
            now=NOW,
        )
    return new.key.id, new.text


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Token x", "bearer", " Bearer x"]
)
async def test_header_without_a_bearer_is_refused(door: Door, header: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await door.authenticator.authenticate(header)
    assert caught.value.reason is Refusal.MISSING


async def test_token_lets_in_its_user(door: Door) -> None:
    principal = await door.authenticator.authenticate(f"bEARER {token('acme')}")
    assert principal == Principal(ACME, "42", Role.USER, UserId("42"))
    assert await door.enter(token("zeta", role="admin")) == Principal(
        ZETA, "42", Role.ADMIN, UserId("42")
    )


async def test_remembered_token_still_ends_at_its_exp(door: Door) -> None:
    short = token("acme", exp=NOW.timestamp() + 2)
    await door.enter(short)
    door.clock.moment += timedelta(seconds=7)  # the same remembered answer, a later time
    assert await refused(door, short) is Refusal.EXPIRED


async def test_unknown_and_suspended_tenants_are_refused_alike(
    door: Door, fresh: FreshDatabase
) -> None:
    await door.enter(token("acme"))
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute("UPDATE steelyard.tenant SET status = 'suspended' WHERE id = 'acme'")
    door.clock.move(timedelta(seconds=5))
    assert await refused(door, token("acme")) is Refusal.TENANT
    assert await refused(door, token("nobody")) is Refusal.TENANT
    assert (await door.enter(token("zeta"))).tenant == ZETA


async def revoke_tokens(database: Database, door: Door) -> None:
    async with database.unit_of_work(ACME) as uow:
        await change_user(uow, UserId("42"), UserEdit(revokes_tokens=True), now=door.clock.now())


async def test_revoked_token_is_refused_within_five_seconds_and_a_newer_one_taken(
    database: Database, door: Door
) -> None:
    async with database.unit_of_work(ACME) as uow:
        await create_user(uow, NewUser(UserId("42")), now=NOW)
    old, timeless = token("acme"), token("acme", iat=None)
    await door.enter(old)
    await door.enter(timeless)
    door.clock.move(timedelta(seconds=1))
    await revoke_tokens(database, door)
    door.clock.move(timedelta(seconds=3.9))
    await door.enter(old)  # another process may still take it
    door.clock.move(timedelta(seconds=0.1))
    assert await refused(door, old) is Refusal.REVOKED
    assert await refused(door, timeless) is Refusal.REVOKED
    await door.enter(token("acme", iat=NOW.timestamp() + 1))
    await door.enter(token("zeta"))  # the same user id of another tenant


async def test_the_process_that_revokes_refuses_at_once(database: Database, door: Door) -> None:
    async with database.unit_of_work(ACME) as uow:
        await create_user(uow, NewUser(UserId("42")), now=NOW)
    await door.enter(token("acme"))
    door.clock.move(timedelta(seconds=1))
    await revoke_tokens(database, door)
    door.authenticator.forget_user(ACME, UserId("42"))
    assert await refused(door, token("acme")) is Refusal.REVOKED


async def test_inactive_user_is_refused(database: Database, door: Door) -> None:
    async with database.unit_of_work(ACME) as uow:
        await create_user(uow, NewUser(UserId("42"), status=UserStatus.INACTIVE), now=NOW)
    assert await refused(door, token("acme")) is Refusal.REVOKED
    assert await refused(door, token("acme", role="admin")) is Refusal.REVOKED
    await door.enter(token("acme", subject="43"))


async def test_nobody_is_let_in_while_standing_cannot_be_read(database: Database) -> None:
    door = Door.on(database)
    await database.close()
    with pytest.raises(DatabaseUnavailable):
        await door.enter(token("acme"))
    with pytest.raises(DatabaseUnavailable):
        await door.enter("sk_0123456789abcdef_" + "x" * 43)


# --- API keys ---------------------------------------------------------------------------------


async def test_key_lets_in_its_program(database: Database, door: Door) -> None:
    for role in (Role.SERVICE, Role.OPERATOR, Role.ADMIN):
        key_id, text = await make_key(database, role=role)
        assert await door.enter(text) == Principal(ACME, f"key:{key_id}", role, None)


async def test_unknown_key_and_wrong_secret_are_one_answer(database: Database, door: Door) -> None:
    key_id, text = await make_key(database)
    other_secret = (await make_key(database))[1].rpartition("_")[2]
    wrong = [
        f"sk_{key_id}_{'A' * 43}",
        f"sk_{key_id}_{other_secret[-43:]}"
        if "_" not in other_secret
        else f"sk_{key_id}_{'B' * 43}",
        f"sk_{'0' * 16}_{'A' * 43}",
        f"sk_{key_id}_",
        f"sk_{key_id}",
        "sk_",
        text + "A",
        text[:-1],
        text.replace("sk_", "sk_ "),
    ]
    answers = set()
    for one in wrong:
        with pytest.raises(Unauthenticated) as caught:
            await door.enter(one)
        answers.add((caught.value.reason, str(caught.value), str(caught.value.fields())))
    assert len(answers) == 1
    assert (await door.enter(text)).tenant == ACME


async def test_revoked_key_is_refused_within_five_seconds(database: Database, door: Door) -> None:
    key_id, text = await make_key(database)
    await door.enter(text)
    async with database.unit_of_work(ACME) as uow:
        revoked = await revoke_api_key(uow, key_id, now=NOW + timedelta(seconds=1))
        again = await revoke_api_key(uow, key_id, now=NOW + timedelta(seconds=9))
    assert revoked.revoked_at == again.revoked_at == NOW + timedelta(seconds=1)
    door.clock.move(timedelta(seconds=4.9))
    await door.enter(text)
    door.clock.move(timedelta(seconds=0.1))
    assert await refused(door, text) is Refusal.KEY


async def test_the_process_that_revokes_a_key_refuses_it_at_once(
    database: Database, door: Door
) -> None:
    key_id, text = await make_key(database)
    await door.enter(text)
    async with database.unit_of_work(ACME) as uow:
        await revoke_api_key(uow, key_id, now=NOW)
    door.authenticator.forget_key(key_id)
    assert await refused(door, text) is Refusal.KEY


async def test_key_ends_at_its_time_to_the_moment(database: Database, door: Door) -> None:
    _, text = await make_key(database, expires_at=NOW + timedelta(seconds=2))
    found = await door.authenticator.check_credential(text)
    assert found.expires_at == NOW + timedelta(seconds=2)
    door.clock.move(timedelta(seconds=1.999))
    await door.enter(text)
    door.clock.move(timedelta(seconds=0.001))
    assert await refused(door, text) is Refusal.KEY


async def test_key_of_a_suspended_tenant_is_refused(
    database: Database, door: Door, fresh: FreshDatabase
) -> None:
    _, text = await make_key(database)
    async with behind_the_wall(fresh.admin_url) as admin:
        await admin.execute("UPDATE steelyard.tenant SET status = 'suspended' WHERE id = 'acme'")
    assert await refused(door, text) is Refusal.KEY


async def test_secret_is_in_no_column_of_any_table(
    database: Database, door: Door, fresh: FreshDatabase
) -> None:
    key_id, text = await make_key(database)
    secret = text.removeprefix(f"sk_{key_id}_")
    assert len(secret) == 43
    async with behind_the_wall(fresh.admin_url) as admin:
        row = await admin.fetchval("SELECT k::text FROM steelyard.api_key k WHERE id = $1", key_id)
        hash_length = await admin.fetchval("SELECT length(secret_hash) FROM steelyard.api_key")
    assert secret not in row
    assert hash_length == 32
    async with database.unit_of_work(ACME) as uow:
        assert secret not in repr(await list_api_keys(uow, after=None, limit=10))


@pytest.mark.parametrize(
    "order",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"role": Role.USER},
        {"expires_at": NOW},
    ],
    ids=repr,
)
async def test_key_order_that_makes_no_sense_is_refused(
    database: Database, door: Door, order: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput):
        await make_key(database, **order)
    async with database.unit_of_work(ACME) as uow:
        assert await list_api_keys(uow, after=None, limit=10) == []


async def test_key_of_another_tenant_cannot_be_revoked(database: Database, door: Door) -> None:
    key_id, text = await make_key(database, ACME)
    for name in (key_id, "no-such-key", "a\x00b", "é" * 50):
        with pytest.raises(NotFound):
            async with database.unit_of_work(ZETA) as uow:
                await revoke_api_key(uow, name, now=NOW)
    assert (await door.enter(text)).tenant == ACME


async def test_ten_thousand_checks_of_one_key_read_the_database_once(
    database: Database, door: Door
) -> None:
    _, text = await make_key(database)
    await door.enter(text)
    await database.close()
    for _ in range(10_000):
        await door.enter(text)
