"""Users are made once, changed by field, and in bulk each row has its own outcome."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.access import users
from steelyard.access.audit import list_audit, record_audit
from steelyard.access.errors import UserExists
from steelyard.access.model import UserStatus
from steelyard.access.tenants import create_tenant
from steelyard.access.users import NewUser, Row, UserEdit
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Database
from tests.store.access.access_kit import ACME, admin_of, make_tenants
from tests.unit.access.token_kit import NOW


@pytest.fixture
async def made(database: Database) -> Database:
    await make_tenants(database)
    return database


def outcomes(rows: list[Row]) -> list[str]:
    return [row.outcome.value for row in rows]


async def upsert(database: Database, *rows: NewUser) -> list[Row]:
    async with database.unit_of_work(ACME) as uow:
        return await users.upsert_users(uow, rows, now=NOW)


async def test_repeated_creation_answers_the_first_user(made: Database) -> None:
    async with made.unit_of_work(ACME) as uow:
        first, is_new = await users.create_user(uow, NewUser(UserId("42"), "Ann"), now=NOW)
        later = NOW + timedelta(days=1)
        again, is_new_again = await users.create_user(uow, NewUser(UserId("42"), "Ann"), now=later)
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    assert again.created_at == NOW


async def test_other_user_with_a_taken_id_is_refused_and_nothing_changes(made: Database) -> None:
    async with made.unit_of_work(ACME) as uow:
        await users.create_user(uow, NewUser(UserId("42"), "Ann"), now=NOW)
    for other in (NewUser(UserId("42"), "Bob"), NewUser(UserId("42"), "Ann", UserStatus.INACTIVE)):
        with pytest.raises(UserExists):
            async with made.unit_of_work(ACME) as uow:
                await users.create_user(uow, other, now=NOW)
    async with made.unit_of_work(ACME) as uow:
        found = await users.get_user(uow, UserId("42"))
    assert (found.display_name, found.status) == ("Ann", UserStatus.ACTIVE)


async def test_bulk_tells_what_became_of_each_row(made: Database) -> None:
    await upsert(made, NewUser(UserId("kept"), "Kept"), NewUser(UserId("renamed"), "Old"))
    rows = await upsert(
        made,
        NewUser(UserId("new")),
        NewUser(UserId("kept")),
        NewUser(UserId("renamed"), "New"),
        NewUser(UserId("a\nb")),
        NewUser(UserId("new"), "Twice"),
        NewUser(UserId("key:x")),
        NewUser(UserId("tricky"), "a\u202eb"),
    )
    assert outcomes(rows) == [
        "created",
        "unchanged",
        "updated",
        "refused",
        "refused",
        "refused",
        "refused",
    ]
    assert rows[4].problem == "id: it occurs earlier in this call"
    async with made.unit_of_work(ACME) as uow:
        found = await users.list_users(uow, after=None, limit=10)
    assert [(user.id, user.display_name) for user in found] == [
        ("kept", "Kept"),
        ("new", None),
        ("renamed", "New"),
    ]


async def test_bulk_status_is_kept_where_it_is_not_given(made: Database) -> None:
    await upsert(made, NewUser(UserId("42"), "Ann", UserStatus.INACTIVE))
    assert outcomes(await upsert(made, NewUser(UserId("42"), "Anna"))) == ["updated"]
    async with made.unit_of_work(ACME) as uow:
        found = await users.get_user(uow, UserId("42"))
    assert (found.display_name, found.status) == ("Anna", UserStatus.INACTIVE)


async def test_ten_thousand_users_are_made_in_one_call_and_one_more_is_refused(
    made: Database,
) -> None:
    rows = [NewUser(UserId(f"u{number}")) for number in range(10_000)]
    assert Counter(outcomes(await upsert(made, *rows))) == {"created": 10_000}
    assert Counter(outcomes(await upsert(made, *rows))) == {"unchanged": 10_000}
    with pytest.raises(InvalidInput):
        await upsert(made, *rows, NewUser(UserId("one-more")))


async def test_bulk_calls_that_overlap_in_opposite_orders_both_succeed(made: Database) -> None:
    for turn in range(3):
        rows = [NewUser(UserId(f"t{turn}-{number:05}"), "A") for number in range(3_000)]
        other = [NewUser(row.id, "B") for row in reversed(rows)]
        both = await asyncio.gather(upsert(made, *rows), upsert(made, *other))
        counts = Counter(outcome for done in both for outcome in outcomes(done))
        # Each row is made by one call and renamed by the other: nothing is lost, nobody is turned away.
        assert counts == {"created": 3_000, "updated": 3_000}


ids = st.sampled_from(["a", "b", "c", "A", "é", "\n"])
news = st.builds(
    NewUser,
    ids,
    st.none() | st.sampled_from(["Ann", "Bob"]),
    st.none() | st.sampled_from(UserStatus),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=st.lists(st.lists(news, max_size=6), max_size=4), number=st.integers(0, 10**12))
async def test_bulk_agrees_with_a_plain_model(
    made: Database, calls: list[list[NewUser]], number: int
) -> None:
    tenant = TenantId(f"t{number}")
    await create_tenant(made, tenant, name="Model", now=NOW)
    async with made.unit_of_work(tenant) as uow:
        found = await users.list_users(uow, after=None, limit=10)
        model = {user.id: (user.display_name, user.status) for user in found}
        for rows in calls:
            done = await users.upsert_users(uow, rows, now=NOW)
            assert outcomes(done) == _apply(model, rows)
        found = await users.list_users(uow, after=None, limit=10)
    assert {user.id: (user.display_name, user.status) for user in found} == model


def _apply(model: dict[UserId, tuple[str | None, UserStatus]], rows: list[NewUser]) -> list[str]:
    said, seen = [], set()
    for row in rows:
        if row.id == "\n" or row.id in seen:
            said.append("refused")
            continue
        seen.add(row.id)
        before = model.get(row.id)
        name, status = before or (None, UserStatus.ACTIVE)
        model[row.id] = (row.display_name or name, row.status or status)
        said.append(
            "created" if before is None else "updated" if model[row.id] != before else "unchanged"
        )
    return said


async def test_change_touches_only_the_fields_given(made: Database) -> None:
    await upsert(made, NewUser(UserId("42"), "Ann"))
    later = NOW + timedelta(seconds=9)
    async with made.unit_of_work(ACME) as uow:
        await users.change_user(uow, UserId("42"), UserEdit(revokes_tokens=True), now=later)
        await users.change_user(uow, UserId("42"), UserEdit(status=UserStatus.INACTIVE), now=NOW)
        await users.change_user(uow, UserId("42"), UserEdit(display_name=None), now=NOW)
        # A clock behind another process's never makes an earlier revocation weaker.
        await users.change_user(uow, UserId("42"), UserEdit(revokes_tokens=True), now=NOW)
        found = await users.get_user(uow, UserId("42"))
    assert (found.display_name, found.status, found.tokens_valid_from) == (
        None,
        UserStatus.INACTIVE,
        later,
    )


async def test_unknown_user_is_not_found(made: Database) -> None:
    with pytest.raises(NotFound):
        async with made.unit_of_work(ACME) as uow:
            await users.change_user(uow, UserId("nobody"), UserEdit(display_name="x"), now=NOW)


async def test_audit_line_vanishes_with_the_act_that_failed(made: Database) -> None:
    async def fail() -> None:
        async with made.unit_of_work(ACME) as uow:
            await record_audit(uow, admin_of(ACME), action="test.fail", now=NOW)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await fail()
    async with made.unit_of_work(ACME) as uow:
        assert await list_audit(uow, before=None, limit=10) == []


async def test_audit_is_listed_newest_first_page_by_page(made: Database) -> None:
    async with made.unit_of_work(ACME) as uow:
        for number in range(5):
            await record_audit(
                uow,
                admin_of(ACME),
                action="test.act",
                now=NOW,
                target=f"thing:{number}",
                request_id="r-1",
                details={"number": number, "text": "naïve ' \" \\"},
            )
        first = await list_audit(uow, before=None, limit=3)
        rest = await list_audit(uow, before=first[-1].id, limit=3)
    assert [line.target for line in first + rest] == [f"thing:{n}" for n in (4, 3, 2, 1, 0)]
    line = first[0]
    assert (line.actor, line.actor_role, line.outcome, line.request_id, line.at) == (
        "boss",
        "admin",
        "done",
        "r-1",
        NOW,
    )
    assert line.details == {"number": 4, "text": "naïve ' \" \\"}
