"""The core bank of the demo: a simulated T24 over real HTTP, in the loop of `up`, whose balances move by themselves.

It is a task and not a process of its own: it takes a request or so a second, starts in a millisecond, needs no
memory worth naming, and is gone when `up` is gone, however that ended. Its books are its own: they lie in the data
folder, are written before anybody can ask for what changed, and go on after a restart where they stood.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import msgspec
from pydantic import SecretStr

from steelyard.cli.demo_people import PEOPLE, WALLET, demo_interval_ms
from steelyard.cli.steer_bank import ADDRESS_FILE
from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import LATENCIES, Fault, PlannedFault
from steelyard.providers.t24.simulator.serve import serve_bank
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.datafolder import ProductFolder
from steelyard.runtime.embedded.folder import explained, write_private
from steelyard.runtime.repeat import repeat
from steelyard.runtime.settings import Settings

SEED: Final = 3_124
MOVE_EVERY_S: Final = (0.5, 3.5)
"""Between two entries, and a second."""

FIRST_WEATHER_S: Final = 180.0
WEATHER_EVERY_S: Final = (150.0, 300.0)
WEATHER: Final = (
    PlannedFault(Fault.SLOW, wait_s=3.0, for_s=15),
    PlannedFault(Fault.STATUS_503, for_s=20),
    PlannedFault(Fault.SLOW, wait_s=0.8, for_s=30),
    PlannedFault(Fault.RESET, for_s=15),
)
"""What befalls the bank now and then, in turn; unless somebody has broken it by hand."""

# Least and largest amount of an entry and its step, minor units, by currency: bread and airtime; shoes and school things.
_SMALL: Final = {"ZMW": (2_000, 18_000, 50), "USD": (250, 2_400, 5)}
_LARGE: Final = {"ZMW": (20_000, 95_000, 500), "USD": (2_500, 14_000, 25)}


class _KeptAccount(msgspec.Struct):
    number: str
    customer: str
    currency: str
    booked: int
    authorised: int
    uncleared: int
    locked: int


class _KeptBooks(msgspec.Struct):
    moved: int
    accounts: list[_KeptAccount]


@dataclass(slots=True)
class DemoBooks:
    """The bank's books as they lie in the data folder.

    Args:
        moved: Entries made so far: with the seed it says what the next one is.
    """

    folder: ProductFolder
    books: Books
    moved: int = 0

    @classmethod
    def open(cls, folder: ProductFolder, mirrored: Mapping[str, int]) -> "DemoBooks":
        """Return the books that were kept; where there are none, as they were mirrored, else as at the opening."""
        books = Books()
        for person in (*PEOPLE, WALLET):
            for one in person.accounts:
                booked = mirrored.get(one.number, one.opening)
                currency = find_currency(one.currency)
                books.add(SimulatedAccount(one.number, person.customer, currency, booked=booked))
        kept = _read(folder)
        for account in () if kept is None else kept.accounts:
            named = {**msgspec.structs.asdict(account), "currency": find_currency(account.currency)}
            books.add(SimulatedAccount(**named))
        return cls(folder, books, 0 if kept is None else kept.moved)

    def keep(self) -> None:
        """Write the books as they are."""
        self._write(self._standing())

    async def move_one(self) -> SimulatedAccount:
        """Make the next entry: written first, then it is so. What a crash takes away nobody has seen."""
        number, amount = next_entry(self.books, self.moved)
        planned = self._standing()
        planned.moved += 1
        next(one for one in planned.accounts if one.number == number).booked += amount
        await asyncio.to_thread(self._write, planned)
        self.moved += 1
        account = self.books.post(number, amount)
        if self._standing() != planned:  # somebody else posted meanwhile, and was written before
            self.keep()
        return account

    def _standing(self) -> _KeptBooks:
        accounts = [
            _KeptAccount(
                one.number,
                one.customer,
                one.currency.code,
                one.booked,
                one.authorised,
                one.uncleared,
                one.locked,
            )
            for one in self.books.accounts.values()
        ]
        return _KeptBooks(self.moved, accounts)

    def _write(self, kept: _KeptBooks) -> None:
        with explained(self.folder.folder):
            write_private(_path(self.folder), msgspec.json.encode(kept).decode() + "\n")


def next_entry(books: Books, moved: int) -> tuple[str, int]:
    """Return account and amount of the entry after so many: always the same for the same books.

    Small debits mostly, now and then a larger one or money that comes in; who runs short is paid, who has far more
    than at the opening spends, so that balances stay believable for as long as the demo runs.
    """
    chance = Random(f"{SEED}/{moved}")  # noqa: S311 - chance that can be repeated
    openings = {one.number: one.opening for person in PEOPLE for one in person.accounts}
    number = chance.choice(sorted(openings))
    account, opening = books.accounts[number], openings[number]
    small, large = _SMALL[account.currency.code], _LARGE[account.currency.code]
    if account.booked < opening // 2:
        return number, opening // 2 // large[2] * large[2]
    if account.booked > opening * 2:
        return number, -(opening // 2 // large[2] * large[2])
    least, most, step = small if chance.random() < 0.8 else large
    amount = chance.randrange(least, most, step)
    return number, amount if chance.random() < 0.3 else -amount


def _path(folder: ProductFolder) -> Path:
    return folder.path / "demo-bank.json"


def _read(folder: ProductFolder) -> _KeptBooks | None:
    try:
        return msgspec.json.decode(_path(folder).read_bytes(), type=_KeptBooks)
    except (OSError, msgspec.MsgspecError):
        return None


@dataclass(slots=True)
class DemoBank:
    """A running bank: where it answers and what must be shown there."""

    url: str
    key: str = field(repr=False)

    def settings(self, settings: Settings) -> Settings:
        """Return settings with this bank as the core bank; how often it is read, unless that was said."""
        made: dict[str, object] = {
            "t24_api_url": self.url,
            "t24_api_key": SecretStr(self.key),
            "t24_dialect": "bearer",
            "t24_path": None,
            "t24_user": None,
            "t24_credentials": None,
            "t24_company": None,
            "t24_ca_file": None,
            "balance_sync_interval": demo_interval_ms(settings),
        }
        return settings.model_copy(update=made)


@asynccontextmanager
async def open_demo_bank(
    folder: ProductFolder, mirrored: Mapping[str, int]
) -> AsyncIterator[DemoBank]:
    """Serve the demo's bank on any free port of this machine, and let its balances move, until the context is left.

    Args:
        folder: Keeps its books, and where it answers for those who steer it.
        mirrored: Balances as they were read last; for a bank whose books are lost.
    Raises:
        OSError: No port is free.
        DataFolderUnusable: The books cannot be kept.
    """
    kept, key = DemoBooks.open(folder, mirrored), secrets.token_urlsafe(16)
    kept.keep()
    chance = Random()  # noqa: S311 - when and how slowly, not what
    options = BankOptions(key=key, latency=LATENCIES["quick"])
    bank = SimulatedBank(kept.books, chance=chance, clock=SystemClock(), options=options)

    async def move() -> None:
        await asyncio.sleep(chance.uniform(*MOVE_EVERY_S))
        await kept.move_one()

    async with serve_bank(bank, on_books=kept.keep) as server:
        address = folder.path / ADDRESS_FILE
        with explained(folder.folder):
            write_private(address, json.dumps({"url": server.url}) + "\n")
        tasks = [
            asyncio.create_task(repeat("demo bank", move, every_s=1.0)),
            asyncio.create_task(_have_weather(bank, chance)),
        ]
        try:
            yield DemoBank(server.url, key)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            address.unlink(missing_ok=True)


async def _have_weather(bank: SimulatedBank, chance: Random) -> None:
    """Let the bank be slow or away for a moment now and then, as banks are."""
    wait_s = FIRST_WEATHER_S
    while True:
        for one in WEATHER:
            await asyncio.sleep(wait_s)
            if not bank.faults.list_current():
                bank.faults.add(PlannedFault(one.fault, wait_s=one.wait_s, for_s=one.for_s))
            wait_s = chance.uniform(*WEATHER_EVERY_S)
