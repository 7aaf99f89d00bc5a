"""An import posts every line once, however often and however far it runs."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from steelyard.balances.model import NewAccount
from steelyard.balances.store import find_account_by_reference, list_changes_since, open_accounts
from steelyard.cli.purchase_file import reader_of
from steelyard.core.errors import DatabaseUnavailable, InvalidInput
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.ledger.errors import CurrencyMismatch
from steelyard.ledger.import_purchases import (
    ImportOutcome,
    ImportPorts,
    ImportRefused,
    ImportRequest,
    Posts,
    import_purchases,
)
from steelyard.ledger.model import Order, Posted
from steelyard.ledger.purchases import Purchase
from steelyard.runtime.currencies import find_currency
from tests.world import World

GBP = find_currency("GBP")
SHIPPED = Path(__file__).parents[2] / "src/steelyard/data/card-purchases-2014-10.csv"
HEADER = "date,card,merchant,amount_gbp\n"


async def load(
    world: World,
    file: Path,
    *,
    tops_up: bool = True,
    is_strict: bool = False,
    commit: Posts | None = None,
    source: str | None = None,
) -> ImportOutcome:
    """Import a file into the default tenant."""
    ports = ImportPorts(world.database, commit or world.commit, world.clock)
    name = source or file.name
    request = ImportRequest(DEFAULT_TENANT, name, GBP, tops_up=tops_up, is_strict=is_strict)
    return await import_purchases(ports, request, reader_of(file, name, GBP))


def write(folder: Path, *lines: str, name: str = "some.csv") -> Path:
    """Write a file of lines under a good header."""
    file = folder / name
    file.write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def sums_of(file: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return per card what all its lines, and what its purchases alone, add up to."""
    net: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    lines: Iterator[object] = reader_of(file, file.name, GBP)()
    for line in lines:
        assert isinstance(line, Purchase)
        net[line.card] += line.amount.minor
        spent[line.card] += max(line.amount.minor, 0)
    return dict(net), dict(spent)


async def standing(world: World, card: str) -> tuple[int, int, int, int]:
    """Return posted, seq, total recharged and total spent of a card's account."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        account = await find_account_by_reference(uow, f"card-{card}")
    assert account is not None
    balance = account.balance
    return balance.posted, balance.seq, account.total_recharged, account.total_spent


async def count_rows(world: World) -> tuple[int, int]:
    """Return how many operations and changes there are."""
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        return (
            await uow.fetchval("SELECT count(*) FROM steelyard.operation"),
            await uow.fetchval("SELECT count(*) FROM steelyard.change"),
        )


async def test_every_card_has_its_topup_less_its_lines_and_a_second_import_changes_nothing(
    world: World,
) -> None:
    first = await load(world, SHIPPED)
    assert (first.lines, first.cards, first.charges, first.refunds) == (3923, 666, 3849, 74)
    assert (first.refused_count, first.already_there, first.topped_up) == (0, 0, 665)
    net, spent = sums_of(SHIPPED)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        rows = await uow.fetch(
            "SELECT reference, posted, total_recharged, total_spent FROM steelyard.account WHERE kind = 'held'"
        )
    assert {row["reference"].removeprefix("card-"): row["posted"] for row in rows} == {
        card: spent[card] - net[card] for card in net
    }
    assert sum(row["total_recharged"] for row in rows) == sum(spent.values())
    assert sum(row["total_spent"] for row in rows) == sum(net.values()) == 60_036_969
    before = await count_rows(world)
    second = await load(world, SHIPPED)
    assert (second.already_there, second.charges, second.refunds) == (3923, 0, 0)
    assert (second.topped_up, second.accounts_opened, second.refused_count) == (0, 0, 0)
    assert await count_rows(world) == before


async def test_a_longer_export_of_the_same_source_adds_only_what_is_new(
    world: World, tmp_path: Path
) -> None:
    await load(world, write(tmp_path, "2014-10-01,7,tea,1.00", "2014-10-02,7,tea,-0.25"))
    longer = write(
        tmp_path,
        "2014-09-30,7,pie,2.50",
        "2014-10-01,7,tea,1.00",
        "2014-10-01,7,tea,1.00",
        "2014-10-02,7,tea,-0.25",
    )
    outcome = await load(world, longer)
    assert (outcome.charges, outcome.refunds, outcome.already_there) == (2, 0, 2)
    assert (outcome.topped_up, outcome.topped_up_minor) == (1, 350)
    assert await standing(world, "7") == (25, 6, 450, 425)
    assert (await load(world, longer)).already_there == 4


async def test_without_topup_a_card_that_runs_short_is_refused_and_taken_later(
    world: World, tmp_path: Path
) -> None:
    file = write(
        tmp_path, "2014-10-01,8,tea,-3.00", "2014-10-02,8,pie,2.00", "2014-10-03,8,cake,2.00"
    )
    first = await load(world, file, tops_up=False)
    assert (first.charges, first.refunds) == (1, 1)
    assert [(line.line, line.field) for line in first.refused] == [(4, "insufficient_funds")]
    again = await load(world, file, tops_up=True)
    assert (again.charges, again.already_there, again.refused_count) == (1, 2, 0)
    assert (await standing(world, "8"))[0] == 300


async def test_details_tell_source_line_date_and_merchant(world: World, tmp_path: Path) -> None:
    await load(world, write(tmp_path, '2014-10-01,9,"café, bar",1.00'))
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        account = await find_account_by_reference(uow, "card-9")
        assert account is not None
        _, charge = await list_changes_since(uow, account.balance.account, after_seq=0, limit=9)
    assert json.loads(charge.details or "") == {
        "source": "some.csv",
        "line": 2,
        "date": "2014-10-01",
        "merchant": "café, bar",
    }


async def test_a_strict_import_with_one_bad_line_writes_nothing(
    world: World, tmp_path: Path
) -> None:
    file = write(tmp_path, "2014-10-01,1,tea,1.00", "2014-10-01,1,tea,1.005")
    with pytest.raises(ImportRefused) as caught:
        await load(world, file, is_strict=True)
    assert caught.value.fields()["refused"] == [
        {"line": 3, "field": "amount_gbp", "reason": "'1.005' has more than 2 decimal digits"}
    ]
    assert await count_rows(world) == (0, 0)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await find_account_by_reference(uow, "card-1") is None


async def test_bad_lines_are_left_out_and_told(world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "2014-10-01,1,tea,1.00", "2014-10-01,1,tea,x", "2014-10-01,2,pie,2.00")
    outcome = await load(world, file)
    assert (outcome.lines, outcome.charges, outcome.refused_count) == (3, 2, 1)
    assert (outcome.refused[0].line, outcome.refused[0].field) == (3, "amount_gbp")


async def test_a_file_without_the_header_writes_nothing(world: World, tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InvalidInput):
        await load(world, file)
    assert await count_rows(world) == (0, 0)


async def test_an_account_in_another_currency_is_never_charged_in_pence(
    world: World, tmp_path: Path
) -> None:
    await world.open_account(user="someone")
    await world.make_tenant(DEFAULT_TENANT, "JPY")
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        wanted = NewAccount(UserId("someone"), find_currency("JPY"), reference="card-5")
        await open_accounts(uow, [wanted], now=world.clock.now())
    before = await count_rows(world)
    with pytest.raises(CurrencyMismatch):
        await load(world, write(tmp_path, "2014-10-01,5,tea,1.00"))
    assert await count_rows(world) == before


@dataclass
class FailsAfter:
    """A way to post whose process ends after some orders."""

    real: Posts
    left: int

    async def post(self, order: Order) -> Posted:
        self.left -= 1
        if self.left < 0:
            raise _Killed
        return await self.real.post(order)


class _Killed(BaseException):
    """Stands for the process's sudden end: nothing catches it."""


@pytest.mark.parametrize("after", [0, 50, 900])
async def test_an_interrupted_import_goes_on_where_it_was(
    world: World, tmp_path: Path, after: int
) -> None:
    part = tmp_path / "part.csv"
    part.write_bytes(b"".join(SHIPPED.read_bytes().splitlines(keepends=True)[:1201]))
    with pytest.raises(_Killed):
        await load(world, part, commit=FailsAfter(world.commit, after))
    whole = await load(world, part)
    net, spent = sums_of(part)
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        rows = await uow.fetch(
            "SELECT reference, posted FROM steelyard.account WHERE kind = 'held'"
        )
    assert {row["reference"].removeprefix("card-"): row["posted"] for row in rows} == {
        card: spent[card] - net[card] for card in net
    }
    assert whole.lines == 1200
    assert (await count_rows(world))[0] == 1200 + sum(minor > 0 for minor in spent.values())


@dataclass
class AwayAtFirst:
    """A way to post whose every order meets a database that is away once, after it took effect."""

    real: Posts
    seen: set[str]

    async def post(self, order: Order) -> Posted:
        posted = await self.real.post(order)
        if order.key not in self.seen:
            self.seen.add(order.key)
            raise DatabaseUnavailable(doing="committing")
        return posted


async def test_an_unknown_outcome_is_asked_again_with_the_same_key(
    world: World, tmp_path: Path
) -> None:
    file = write(tmp_path, *(f"2014-10-01,{card},tea,1.00" for card in range(40)))
    outcome = await load(world, file, commit=AwayAtFirst(world.commit, set()))
    assert (outcome.already_there, outcome.refused_count) == (40, 0)
    assert (await count_rows(world))[0] == 80
