"""An import brings users, accounts and targets to what a file says, however often and however far it runs."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from steelyard.cli.user_file import DiskMemory, reader_of
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.sync.enroll import Enrollment
from steelyard.sync.enrolment import Counts, Refusal
from steelyard.sync.enrolment_file import Format
from steelyard.sync.enrolment_rules import DictMemory
from steelyard.sync.import_users import (
    ImportOutcome,
    ImportPorts,
    ImportRequest,
    OnError,
    UsersRefused,
    import_users,
)
from tests.sync_kit import open_sync_world
from tests.world import World

INTERVAL = timedelta(minutes=5)
HEADER = "username,context,isActive,customerNumber,accountNumber,accountType,currency,isPrimary,accountIsActive,balance,isJoint"
ANN = "ann,MOBILE_BANKING,true,500001,1001,SAVINGS,ZMW,true,true,,"
ANN_2 = "ann,MOBILE_BANKING,true,500001,1002,CURRENT,USD,false,true,,"
BOB = "bob,WALLET,true,500002,2001,SAVINGS,ZMW,true,true,,"
EVE = "eve,MOBILE_BANKING,false,,3001,,ZMW,,,,"


def write(folder: Path, *lines: str, name: str = "users.csv") -> Path:
    """Write a CSV."""
    file = folder / name
    file.write_text("".join(f"{line}\n" for line in (HEADER, *lines)), encoding="utf-8")
    return file


async def load(
    world: World,
    file: Path,
    *,
    database: Database | None = None,
    tenant: TenantId = DEFAULT_TENANT,
    **options: Any,
) -> ImportOutcome:
    """Import a file into a tenant."""
    ports = ImportPorts(database or world.database, world.clock, DictMemory)
    request = ImportRequest(tenant, Enrollment("t24", INTERVAL), file.name, **options)
    return await import_users(ports, request, reader_of(file, Format.CSV))


async def rows(world: World, sql: str, *args: object) -> list[dict[str, Any]]:
    """Look at the default tenant's rows."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        return [dict(row) for row in await uow.fetch(sql, *args)]


async def accounts(world: World) -> dict[str, tuple[object, ...]]:
    """Accounts by number: user, currency, type, primary, active."""
    found = await rows(
        world,
        "SELECT m.*, a.currency, a.is_primary FROM steelyard.mirrored_account m "
        "JOIN steelyard.account a ON a.tenant_id = m.tenant_id AND a.id = m.account_id",
    )
    return {
        one["number"]: (
            one["user_id"],
            one["currency"],
            one["account_type"],
            one["is_primary"],
            one["is_active"],
        )
        for one in found
    }


async def targets(world: World) -> dict[str, int]:
    """Targets: user and cost."""
    found = await rows(world, "SELECT subject, cost FROM steelyard.sync_target")
    return {one["subject"]: one["cost"] for one in found}


async def everything(world: World) -> list[dict[str, Any]]:
    """All that an import may write, but for audit lines."""
    tables = ("app_user", "account", "mirrored_account", "sync_target", "change", "book")
    return [
        {"table": table, "row": str(sorted(one.items(), key=str))}
        for table in tables
        for one in await rows(world, f"SELECT * FROM steelyard.{table} ORDER BY 1, 2")
    ]


def refused(outcome: ImportOutcome) -> list[tuple[int, str, Refusal]]:
    """Lines, fields and codes."""
    return [(one.line, one.field, one.code) for one in outcome.refused]


async def test_users_accounts_and_targets_are_made_as_the_file_says(
    world: World, tmp_path: Path
) -> None:
    outcome = await load(world, write(tmp_path, ANN, ANN_2, BOB, EVE, "zoe,,,,,,,,,,"))
    assert outcome.counts == Counts(users_created=4, accounts_opened=4, targets_added=1)
    assert (outcome.items, outcome.refused_count) == (5, 0)
    users = await rows(world, "SELECT * FROM steelyard.app_user ORDER BY id")
    assert [
        (one["id"], one["context"], one["status"], one["customer_number"]) for one in users
    ] == [
        ("ann", "MOBILE_BANKING", "active", "500001"),
        ("bob", "WALLET", "active", "500002"),
        ("eve", "MOBILE_BANKING", "inactive", None),
        ("zoe", "WALLET", "active", None),
    ]
    assert await accounts(world) == {
        "1001": ("ann", "ZMW", "SAVINGS", True, True),
        "1002": ("ann", "USD", "CURRENT", False, True),
        "2001": ("bob", "ZMW", "SAVINGS", True, True),
        "3001": ("eve", "ZMW", None, False, True),
    }
    assert await targets(world) == {"ann": 2}
    [audit] = await rows(world, "SELECT * FROM steelyard.audit WHERE action = 'users.import'")
    assert json.loads(audit["details"]) == {
        "file": "users.csv",
        "lines": [2, 6],
        **asdict(outcome.counts),
    }
    assert "1001" not in audit["details"]


async def test_the_same_file_again_changes_nothing(world: World, tmp_path: Path) -> None:
    file = write(tmp_path, ANN, ANN_2, BOB, EVE)
    await load(world, file)
    before = await everything(world)
    again = await load(world, file)
    assert again.counts == Counts(users_unchanged=3, accounts_unchanged=4)
    assert await everything(world) == before
    assert len(await rows(world, "SELECT id FROM steelyard.audit")) == 1


async def test_an_edited_file_updates_and_what_it_leaves_out_stays(
    world: World, tmp_path: Path
) -> None:
    await load(world, write(tmp_path, ANN, ANN_2, BOB, EVE))
    edited = await load(
        world,
        write(
            tmp_path,
            "ann,,,500009,1002,WAGES,,true,,,",
            "bob,MOBILE_BANKING,,,2001,,,,,,",
            "eve,,true,,3001,,,,,,",
        ),
    )
    assert edited.counts == Counts(
        users_updated=3, accounts_updated=1, accounts_unchanged=2, targets_added=2
    )
    known = await accounts(world)
    assert known["1001"] == ("ann", "ZMW", "SAVINGS", False, True)  # no longer the primary one
    assert known["1002"] == ("ann", "USD", "WAGES", True, True)
    assert await targets(world) == {"ann": 2, "bob": 1, "eve": 1}
    due = await rows(world, "SELECT subject, due_at FROM steelyard.sync_target")
    now = world.clock.now()
    assert all(now - INTERVAL < one["due_at"] < now + INTERVAL for one in due)
    assert len({one["due_at"] for one in due}) == 3

    ended = await load(
        world,
        write(tmp_path, "ann,WALLET,,,,,,,,,", "bob,,false,,,,,,,,", "eve,,,,3001,,,,false,,"),
    )
    assert ended.counts.targets_removed == 3
    assert await targets(world) == {}
    back = await load(world, write(tmp_path, ANN, ANN_2, "eve,,,,3001,,,,true,,"))
    assert back.counts.targets_added == 2
    assert await targets(world) == {"ann": 2, "eve": 1}


async def test_who_becomes_wallet_while_a_sync_is_in_flight_gets_nothing_of_it(
    world: World, tmp_path: Path
) -> None:
    sync = await open_sync_world(world)
    await load(world, write(tmp_path, ANN))
    lane = "UPDATE steelyard.sync_target SET provider = 'fakebank', due_at = now() - interval '1 s'"
    superuser = await world.as_superuser()
    await superuser.execute(lane)
    await superuser.close()
    [lease] = (await sync.lease()).leases
    ended = await load(world, write(tmp_path, "ann,WALLET,,,,,,,,,"))
    assert ended.counts.targets_removed == 1
    [run] = await sync.runs("ann")
    assert (run["id"], run["state"]) == (lease.run, "cancelled")
    assert json.loads(str(run["error"]))["code"] == "not_synced"
    assert await sync.target("ann") == {}


async def test_what_cannot_be_taken_is_told_and_the_rest_is_kept(
    world: World, tmp_path: Path
) -> None:
    await load(world, write(tmp_path, ANN))
    outcome = await load(
        world,
        write(
            tmp_path,
            "dan,,,,1001,,ZMW,,,,",  # ann's
            "ann,,,,1001,,USD,,,,",  # another currency
            "fay,,,,6001,,,,,,",  # no currency, and the tenant keeps two books
            "gus,,,,7001,,ZMW,true,,,",
            "gus,,,,7002,,ZMW,true,,,",  # a second primary
            "gus,,,,7001,,ZMW,,,,",  # the first again
            "gus,WALLET,,,7003,,ZMW,,,,",  # line 5 said nothing of the context: taken
            "gus,MOBILE_BANKING,,,7004,,ZMW,,,,",  # contradicts line 8
            "hal,,,,7001,,ZMW,,,,",  # given to gus above
            "ida,,,,7001,,ZMW,,,,yes",  # a joint account
            "jon,,,,9001,,ZMW,,,1.234,",
        ),
    )
    assert refused(outcome) == [
        (2, "accountNumber", Refusal.NUMBER_TAKEN),
        (3, "currency", Refusal.CURRENCY_DIFFERS),
        (4, "currency", Refusal.MISSING_FIELD),
        (6, "isPrimary", Refusal.TWO_PRIMARIES),
        (7, "line", Refusal.DUPLICATE),
        (9, "context", Refusal.USER_DIFFERS),
        (10, "accountNumber", Refusal.NUMBER_TAKEN),
        (12, "balance", Refusal.INVALID_VALUE),
    ]
    assert outcome.counts == Counts(users_created=2, accounts_opened=3, targets_added=1)
    # 7001 is gus' and ida's
    found = await rows(
        world, "SELECT user_id FROM steelyard.mirrored_account WHERE number = '7001'"
    )
    assert {one["user_id"] for one in found} == {"gus", "ida"}
    names = await rows(world, "SELECT id FROM steelyard.app_user")
    assert {one["id"] for one in names} == {"ann", "gus", "ida"}
    assert not any("1001" in one.reason or "7001" in one.reason for one in outcome.refused)


async def test_a_file_is_refused_whole_when_asked_and_nothing_is_written(
    world: World, tmp_path: Path
) -> None:
    await load(world, write(tmp_path, ANN))
    before = await everything(world)
    file = write(
        tmp_path, BOB, *(f"u{i},,,,u{i},,ZMW,,,," for i in range(1_500)), "dan,,,,1001,,ZMW,,,,"
    )
    with pytest.raises(UsersRefused) as error:
        await load(world, file, on_error=OnError.REFUSE)
    assert (error.value.code, error.value.outcome.refused_count) == ("import_refused", 1)
    assert error.value.fields()["refused"] == [
        {
            "line": 1_503,
            "user": "dan",
            "field": "accountNumber",
            "code": "number_taken",
            "reason": "the account is another user's; isJoint allows it",
        }
    ]
    assert await everything(world) == before
    assert len(await rows(world, "SELECT id FROM steelyard.audit")) == 1
    kept = await load(world, file)
    assert (kept.counts.users_created, kept.refused_count) == (1_501, 1)


async def test_a_dry_run_counts_what_the_import_then_does_and_writes_nothing(
    world: World, tmp_path: Path
) -> None:
    await load(world, write(tmp_path, ANN, BOB))
    before = await everything(world)
    edited = write(tmp_path, "ann,WALLET,,,1003,,ZMW,true,,,", BOB, EVE, "dan,,,,2001,,ZMW,,,,")
    told = await load(world, edited, is_dry_run=True)
    assert await everything(world) == before
    done = await load(world, edited)
    assert (told.counts, refused(told)) == (done.counts, refused(done))
    assert done.counts.changes > 0


async def test_a_balance_is_taken_once_for_an_account_that_was_never_read(
    world: World, tmp_path: Path
) -> None:
    line = "ann,,,,1001,,ZMW,true,,1500.05,"
    await load(world, write(tmp_path, line))
    [read] = await rows(world, "SELECT read_at FROM steelyard.mirrored_account")
    assert read["read_at"].year == 1970  # nobody said when it was true: never fresh
    [account] = await rows(
        world, "SELECT id, posted, seq FROM steelyard.account WHERE kind = 'mirrored'"
    )
    assert (account["posted"], account["seq"]) == (150_005, 1)
    [change] = await rows(world, "SELECT kind, amount FROM steelyard.change")
    assert (change["kind"], change["amount"]) == ("sync", 150_005)
    again = await load(world, write(tmp_path, line.replace("1500.05", "9.00")))
    assert again.counts == Counts(users_unchanged=1, accounts_unchanged=1)
    [account] = await rows(
        world, "SELECT posted, seq FROM steelyard.account WHERE kind = 'mirrored'"
    )
    assert (account["posted"], account["seq"]) == (150_005, 1)


async def test_a_balance_is_as_old_as_is_said_and_never_of_the_future(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "users.csv"
    file.write_text(
        "username,accountNumber,currency,balance,balanceAsOf\n"
        "ann,1,ZMW,1,2026-01-02T03:04:05+02:00\nbob,2,ZMW,2,2999-01-01T00:00:00Z\n"
        "eve,3,ZMW,3,2026-01-02\n"
    )
    outcome = await load(world, file)
    assert refused(outcome) == [(4, "balanceAsOf", Refusal.INVALID_VALUE)]
    found = {
        one["user_id"]: one["read_at"]
        for one in await rows(world, "SELECT user_id, read_at FROM steelyard.mirrored_account")
    }
    assert found["ann"] == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert found["bob"] <= world.clock.now()


@asynccontextmanager
async def failing_unit_of_work(
    database: Database, tenant: TenantId, calls: list[int]
) -> AsyncIterator[UnitOfWork]:
    """Fail after the third unit of work."""
    calls.append(1)
    if len(calls) > 3:
        raise DatabaseUnavailable(doing="a test")
    async with database.unit_of_work(tenant) as uow:
        yield uow


class Away:
    """A database that goes away for good after three units of work."""

    def __init__(self, database: Database) -> None:
        self.database, self.calls = database, list[int]()

    def unit_of_work(self, tenant: TenantId) -> Any:
        return failing_unit_of_work(self.database, tenant, self.calls)


async def test_what_was_interrupted_goes_on_when_it_is_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steelyard.sync.import_users.PATIENCE_S", 0.0)
    monkeypatch.setattr("steelyard.sync.import_users.LINES_AT_ONCE", 10)
    file = write(tmp_path, *(f"u{i},,,,n{i},,ZMW,true,,," for i in range(50)))
    with pytest.raises(DatabaseUnavailable):
        await load(world, file, database=Away(world.database))  # type: ignore[arg-type]
    assert len(await targets(world)) == 30
    outcome = await load(world, file)
    assert outcome.counts == Counts(
        users_created=20,
        users_unchanged=30,
        accounts_opened=20,
        accounts_unchanged=30,
        targets_added=20,
    )
    assert len(await targets(world)) == 50


async def test_users_and_numbers_of_another_tenant_are_nobodys_here(
    world: World, tmp_path: Path
) -> None:
    acme = TenantId("acme")
    await world.make_tenant(acme)
    await load(world, write(tmp_path, ANN))
    there = await load(world, write(tmp_path, "dan,,,,1001,,ZMW,,,,", ANN_2), tenant=acme)
    assert there.counts == Counts(users_created=2, accounts_opened=2, targets_added=2)
    assert await targets(world) == {"ann": 1}


def test_memory_on_disk_remembers_as_a_dictionary_does() -> None:
    disk, plain = DiskMemory(sqlite3.connect(""), newest_max=7), DictMemory()
    for i in range(200):
        key = f"k{i * 7 % 50}"
        assert disk.get(key) == plain.get(key)
        for memory in (disk, plain):
            memory.put(key, str(i))
    assert [disk.get(f"k{i}") for i in range(60)] == [plain.get(f"k{i}") for i in range(60)]


@pytest.mark.slow
async def test_a_hundred_thousand_lines_are_all_there(world: World, tmp_path: Path) -> None:
    lines = 100_000
    file = write(
        tmp_path,
        *(
            f"u{i // 2:06d},{'WALLET' if i // 2 % 10 == 0 else 'MOBILE_BANKING'},true,{i // 2},"
            f"{1_000_000_000 + i},SAVINGS,ZMW,{str(i % 2 == 0).lower()},true,,"
            for i in range(lines)
        ),
    )
    outcome = await load(world, file)
    assert outcome.counts == Counts(
        users_created=50_000, accounts_opened=100_000, targets_added=45_000
    )
    [found] = await rows(
        world,
        "SELECT (SELECT count(*) FROM steelyard.mirrored_account) AS accounts, "
        "(SELECT count(*) FROM steelyard.account WHERE kind = 'mirrored' AND is_primary) AS primaries, "
        "(SELECT count(*) FROM steelyard.sync_target WHERE cost = 2) AS targets, "
        "(SELECT count(*) FROM steelyard.app_user WHERE customer_number IS NOT NULL) AS customers",
    )
    assert found == {
        "accounts": 100_000,
        "primaries": 50_000,
        "targets": 45_000,
        "customers": 50_000,
    }
    again = await load(world, file)
    assert again.counts == Counts(users_unchanged=50_000, accounts_unchanged=100_000)
