"""Imports beside each other and beside a worker at work: nobody waits for ever, nothing is opened twice."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from steelyard.cli.user_file import reader_of
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.sync.enroll import Enrollment
from steelyard.sync.enrolment_file import Format
from steelyard.sync.enrolment_rules import DictMemory
from steelyard.sync.import_users import ImportOutcome, ImportPorts, ImportRequest, import_users
from tests.sync_kit import BANK, SyncWorld, open_sync_world, working
from tests.world import World

USERS = 150
INTERVAL = timedelta(milliseconds=200)


def write(folder: Path, name: str, line: Callable[[int], str]) -> Path:
    """A file with a line for each user."""
    file = folder / name
    lines = [
        "username,context,isActive,accountNumber,currency,isPrimary,accountIsActive",
        *(line(i) for i in range(USERS)),
    ]
    file.write_text("".join(f"{one}\n" for one in lines))
    return file


async def load(sync: SyncWorld, file: Path) -> ImportOutcome:
    """Import users of the bank."""
    ports = ImportPorts(sync.database, sync.clock, DictMemory)
    request = ImportRequest(DEFAULT_TENANT, Enrollment(BANK, INTERVAL), file.name)
    return await import_users(ports, request, reader_of(file, Format.CSV))


async def test_imports_at_once_open_every_account_once(world: World, tmp_path: Path) -> None:
    sync = await open_sync_world(world)
    file = write(tmp_path, "same.csv", lambda i: f"u{i},,,n{i},GBP,true,")
    other = write(tmp_path, "other.csv", lambda i: f"v{USERS - i},,,n{i},GBP,true,")
    outcomes = await asyncio.gather(*(load(sync, one) for one in (file, file, file, other)))
    assert sum(one.counts.accounts_opened for one in outcomes) == USERS
    async with sync.database.unit_of_work(DEFAULT_TENANT) as uow:
        found = await uow.fetch("SELECT number, user_id FROM steelyard.mirrored_account")
    assert len(found) == len({row["number"] for row in found}) == USERS
    # Whoever came first has all the numbers; the others were told, or found their own there.
    assert len({row["user_id"][0] for row in found}) == 1


async def test_imports_beside_a_worker_end_with_what_the_last_one_says(
    world: World, tmp_path: Path
) -> None:
    sync = await open_sync_world(world)
    first = write(tmp_path, "first.csv", lambda i: f"u{i},MOBILE_BANKING,true,n{i},GBP,true,true")
    second = write(tmp_path, "second.csv", lambda i: f"u{i},MOBILE_BANKING,true,m{i},GBP,true,true")
    ended = write(
        tmp_path,
        "ended.csv",
        lambda i: f"u{i},{'WALLET' if i % 2 else 'MOBILE_BANKING'},true,m{i},GBP,false,{i % 3 > 0}",
    )
    for i in range(USERS):
        sync.bank.money |= {f"n{i}": 1_000 + i, f"m{i}": 2_000 + i}
    workers = [sync.worker(name=f"w{i}") for i in range(2)]
    async with working(workers[0]), working(workers[1]):
        for file in (first, second, ended, second, first, ended):
            await sync.make_due()
            outcome = await load(sync, file)
            assert (outcome.items, outcome.refused_count) == (USERS, 0)
    assert [one.failed_turns + one.lost for one in workers] == [0, 0]
    async with sync.database.unit_of_work(DEFAULT_TENANT) as uow:
        synced = {
            row["subject"] for row in await uow.fetch("SELECT subject FROM steelyard.sync_target")
        }
        primaries = await uow.fetchval(
            "SELECT count(*) FROM steelyard.account WHERE kind = 'mirrored' AND is_primary"
        )
    assert synced == {f"u{i}" for i in range(0, USERS, 2)}
    assert primaries == USERS
    assert not sync.bank.asked.keys() - sync.bank.money.keys()
