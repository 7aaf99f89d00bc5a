"""The demo's bank: believable for as long as it runs, and its books go on where they stood."""

import json
from pathlib import Path

import pytest

from steelyard.cli.demo_bank import SEED, DemoBank, DemoBooks, next_entry
from steelyard.cli.demo_people import PEOPLE, WALLET
from steelyard.runtime.datafolder import ProductFolder, open_folder
from steelyard.runtime.settings import Settings

OPENINGS = {one.number: one.opening for person in PEOPLE for one in person.accounts}


@pytest.fixture
def folder(tmp_path: Path) -> ProductFolder:
    """A data folder of its own."""
    return open_folder(tmp_path / "data")


def booked(books: DemoBooks) -> dict[str, int]:
    """What every account has."""
    return {number: one.booked for number, one in books.books.accounts.items()}


def test_balances_stay_believable_for_weeks_and_are_the_same_each_time(
    folder: ProductFolder,
) -> None:
    def months() -> list[tuple[str, int]]:
        kept = DemoBooks.open(folder, {})
        entries = []
        for moved in range(20_000):
            number, amount = next_entry(kept.books, moved)
            account = kept.books.post(number, amount)
            entries.append((number, amount))
            assert 0 < account.booked < 3 * OPENINGS[number]
            assert amount != 0
        return entries

    entries = months()
    assert {number for number, _ in entries} == OPENINGS.keys()
    assert 0.2 < sum(amount > 0 for _, amount in entries) / len(entries) < 0.45
    assert months() == entries, f"of the seed {SEED}"


async def test_after_a_crash_the_books_go_on_where_they_stood(folder: ProductFolder) -> None:
    first = DemoBooks.open(folder, {})
    assert booked(first) == OPENINGS | {one.number: one.opening for one in WALLET.accounts}
    for _ in range(30):
        await first.move_one()
    first.books.post("4000000101", -12_345)
    first.keep()
    again = DemoBooks.open(folder, {"4000000101": 1})
    assert (booked(again), again.moved) == (booked(first), 30)
    assert next_entry(again.books, again.moved) == next_entry(first.books, first.moved)


async def test_an_entry_made_while_another_is_written_is_not_lost(folder: ProductFolder) -> None:
    kept = DemoBooks.open(folder, {})
    write = DemoBooks._write
    seen = []

    class Interrupted(DemoBooks):
        """Somebody posts by hand while the file is written."""

        def _write(self, standing: object) -> None:
            write(self, standing)  # type: ignore[arg-type]
            seen.append(standing)
            if len(seen) == 1:
                self.books.post("4000000201", 777)

    busy = Interrupted(folder, kept.books)
    await busy.move_one()
    assert len(seen) == 2
    assert booked(DemoBooks.open(folder, {})) == booked(busy)


@pytest.mark.parametrize(
    "text", ["", "{", '{"moved": 1}', '{"moved": 1, "accounts": [{"number": 1}]}']
)
def test_lost_or_damaged_books_go_on_from_what_was_mirrored(
    folder: ProductFolder, text: str
) -> None:
    (folder.path / "demo-bank.json").write_text(text)
    mirrored = {"4000000101": 5_500, "4000000102": 6_600}
    expected = OPENINGS | mirrored | {one.number: one.opening for one in WALLET.accounts}
    assert booked(DemoBooks.open(folder, mirrored)) == expected


def test_an_account_opened_at_the_bank_is_kept_too(folder: ProductFolder) -> None:
    kept = DemoBooks.open(folder, {})
    mine = kept.books.find("4000000101")
    assert mine is not None
    kept.books.add(type(mine)("777", "1", mine.currency, booked=9, locked=4))
    kept.keep()
    assert DemoBooks.open(folder, {}).books.find("777") == kept.books.find("777")
    assert json.loads((folder.path / "demo-bank.json").read_text())["moved"] == 0


def test_the_demo_is_read_often_unless_the_settings_say_how_often() -> None:
    bank = DemoBank("http://127.0.0.1:1", "k")
    assert bank.settings(Settings()).balance_sync_interval == 10_000
    said = Settings.model_validate({"balance_sync_interval": 60_000, "t24_dialect": "iris"})
    used = bank.settings(said)
    assert (used.balance_sync_interval, used.t24_dialect) == (60_000, "bearer")
    assert (used.t24_api_url, used.t24_api_key) != (None, None)
    assert "'k'" not in repr(bank)
