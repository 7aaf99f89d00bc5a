"""Replays the demo's month of card purchases for those cards that somebody watches, faster than life.

A day of October 2014 passes every three seconds while somebody watches a card; the month begins anew when it is over.
The purchases are posted again as new charges, through the door every charge takes. Cards that nobody watches
stay still, and so does time when nobody watches at all: a database grows only while it is looked at.
"""

import asyncio
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from steelyard.balances.read import BalanceReader
from steelyard.balances.store import find_account
from steelyard.cli.demo import demo_file
from steelyard.cli.purchase_file import reader_of
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId
from steelyard.ledger.errors import AccountSuspended, InsufficientFunds
from steelyard.ledger.import_purchases import Posts
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.purchases import CURRENCY_CODE, Purchase
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from steelyard.runtime.datafolder import DemoState, ProductFolder, read_demo_state
from steelyard.runtime.embedded.folder import write_private

DAY_S: Final = 3.0
IDLE_S: Final = 0.5
SOURCE: Final = "replay"
CARDS_MAX: Final = 200
"""Watched cards that are replayed at the same time."""

ACCOUNTS_KNOWN_MAX: Final = 10_000

Watched = Callable[[], Collection[tuple[TenantId, AccountId]]]
"""Returns the accounts that somebody watches at this moment."""


@dataclass(frozen=True, slots=True)
class ReplayPorts:
    """What a replay works with: the running server's own parts, so that its posts are told as all others."""

    database: Database
    commit: Posts
    reader: BalanceReader
    watched: Watched


@dataclass(slots=True)
class Month:
    """The purchases of the month by day and card, and what each card needs for all of its own."""

    days: list[dict[str, list[Purchase]]]
    needed: dict[str, int]

    @classmethod
    def read(cls) -> "Month":
        """Read the file that the package ships."""
        by_day: dict[object, dict[str, list[Purchase]]] = {}
        needed: dict[str, int] = {}
        for line in reader_of(demo_file(), SOURCE, find_currency(CURRENCY_CODE))():
            assert isinstance(line, Purchase), "the package's own file has no line to refuse"
            card = f"card-{line.card}"
            by_day.setdefault(line.on, {}).setdefault(card, []).append(line)
            needed[card] = needed.get(card, 0) + max(line.amount.minor, 0)
        return cls([by_day[day] for day in sorted(by_day, key=str)], needed)


@dataclass(slots=True)
class Replay:
    """Posts the month again and again, day by day.

    A day is noted in the data folder once its purchases are posted, and each purchase has a key for each round: after
    a crash the day is posted again, and what was posted before is answered and not posted twice.
    """

    ports: ReplayPorts
    folder: ProductFolder
    day_s: float = DAY_S
    posted: int = 0
    _month: Month | None = None
    _cards: dict[AccountId, str | None] = field(default_factory=dict)

    async def turn(self) -> None:
        """Replay days for as long as somebody watches a card; where nobody does, return at once.

        Raises:
            DatabaseUnavailable: The database is away; the day is begun again at the next turn.
        """
        while cards := await self._find_watched():
            if read_demo_state(self.folder) is not DemoState.LOADED:
                return
            if self._month is None:
                self._month = await asyncio.to_thread(Month.read)
            await self._replay_day(self._month, cards)

    async def _find_watched(self) -> dict[str, AccountId]:
        """Return the demo's cards that are watched, by their reference."""
        found: dict[str, AccountId] = {}
        for tenant, account in tuple(self.ports.watched())[:CARDS_MAX]:
            if tenant != DEFAULT_TENANT:
                continue
            if account not in self._cards:
                if len(self._cards) >= ACCOUNTS_KNOWN_MAX:
                    self._cards.clear()
                self._cards[account] = await self._find_card(account)
            card = self._cards[account]
            if card is not None:
                found[card] = account
        return found

    async def _find_card(self, account: AccountId) -> str | None:
        async with self.ports.database.unit_of_work(DEFAULT_TENANT) as uow:
            found = await find_account(uow, account)
        is_card = (
            found is not None
            and (found.reference or "").startswith("card-")
            and found.balance.currency.code == CURRENCY_CODE
        )
        return found.reference if found is not None and is_card else None

    async def _replay_day(self, month: Month, cards: dict[str, AccountId]) -> None:
        """Post a day's purchases of these cards, spread over its three seconds, and turn to the next."""
        number = self._read_day()
        round_number, day = divmod(number, len(month.days))
        due = [
            (account, purchase)
            for card, account in cards.items()
            for purchase in month.days[day].get(card, ())
        ]
        pause_s = self.day_s / (len(due) + 1)
        for account, purchase in due:
            await asyncio.sleep(pause_s)
            with suppress(InsufficientFunds, AccountSuspended):  # whoever watches is told
                await self._top_up(month, round_number, account, purchase)
                await self.ports.commit.post(_order_of(purchase, account, round_number))
                self.posted += 1
        await asyncio.sleep(pause_s)
        await asyncio.to_thread(write_private, self._note, json.dumps({"day": number + 1}) + "\n")

    async def _top_up(
        self, month: Month, round_number: int, account: AccountId, purchase: Purchase
    ) -> None:
        """Give a card that cannot pay what its month needs; once a month."""
        balance = await self.ports.reader.read(DEFAULT_TENANT, account)
        if balance.available >= purchase.amount.minor:
            return
        details = {"source": SOURCE, "description": "Top-up for the month"}
        needed = month.needed[f"card-{purchase.card}"]
        key = f"{SOURCE}/{round_number}/topup/{account}"
        order = Order(
            DEFAULT_TENANT, Kind.RECHARGE, account, needed, key, details=json.dumps(details)
        )
        await self.ports.commit.post(order)

    @property
    def _note(self) -> Path:
        return self.folder.path / "replay.json"

    def _read_day(self) -> int:
        try:
            day = json.loads(self._note.read_text(encoding="utf-8"))["day"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return day if isinstance(day, int) and day >= 0 else 0


def _order_of(purchase: Purchase, account: AccountId, round_number: int) -> Order:
    details = {
        "source": SOURCE,
        "line": purchase.line,
        "date": purchase.on.isoformat(),
        "merchant": purchase.merchant,
    }
    kind = Kind.CHARGE if purchase.amount.minor > 0 else Kind.REFUND
    return Order(
        DEFAULT_TENANT,
        kind,
        account,
        abs(purchase.amount.minor),
        f"{SOURCE}/{round_number}/{purchase.key}",
        details=json.dumps(details, ensure_ascii=False, separators=(",", ":")),
    )
