"""The users of the demo whose money is at the simulated core bank, and one who has none there. All invented."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from steelyard.access.users import NewUser, upsert_users
from steelyard.balances.store import open_book
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.mirror.model import NewMirroredAccount
from steelyard.mirror.store import load_accounts
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings
from steelyard.sync.enroll import Enrollment, enroll_accounts
from steelyard.sync.open_sync import CORE_BANK

INTERVAL_MS: Final = 10_000


@dataclass(frozen=True, slots=True)
class DemoAccount:
    """An account at the bank; `opening` in minor units."""

    number: str
    currency: str
    kind: str
    opening: int


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """A customer of the bank; the first account is the primary one."""

    user: UserId
    name: str
    customer: str
    accounts: Sequence[DemoAccount]


def _person(
    index: int, user: str, name: str, *accounts: tuple[str, str, int], customers: int = 700_100
) -> DemoPerson:
    """Number a person's accounts: 4000000101, 4000000102 are those of person 1."""
    made = tuple(
        DemoAccount(f"40000{index:03}0{place}", currency, kind, opening)
        for place, (currency, kind, opening) in enumerate(accounts, start=1)
    )
    return DemoPerson(UserId(f"demo-{user}"), name, str(customers + index), made)


PEOPLE: Final = (
    _person(1, "mutale", "Mutale Banda", ("ZMW", "CURRENT", 842_050), ("USD", "SAVINGS", 125_000)),
    _person(2, "chanda", "Chanda Phiri", ("ZMW", "CURRENT", 318_575)),
    _person(3, "thandiwe", "Thandiwe Mwale", ("ZMW", "CURRENT", 1_569_000)),
    _person(4, "bwalya", "Bwalya Tembo", ("ZMW", "SAVINGS", 2_740_300)),
    _person(5, "natasha", "Natasha Zulu", ("USD", "CURRENT", 248_920), ("ZMW", "CURRENT", 296_400)),
    _person(6, "kelvin", "Kelvin Sakala", ("ZMW", "CURRENT", 457_215)),
    _person(7, "ruth", "Ruth Lungu", ("ZMW", "CURRENT", 689_990), ("ZMW", "SAVINGS", 5_120_000)),
    _person(8, "joseph", "Joseph Mumba", ("USD", "CURRENT", 61_345)),
)
"""Users with the context MOBILE_BANKING: these are asked for."""

WALLET: Final = _person(9, "grace", "Grace Ngoma", ("ZMW", "CURRENT", 205_000))
"""The bank knows her too, but her context is WALLET: nobody ever asks for her."""


def demo_interval_ms(settings: Settings) -> int:
    """Return how often the demo's users are read: as the settings say, if they say it, else far more often."""
    if "balance_sync_interval" in settings.model_fields_set:
        return settings.balance_sync_interval
    return INTERVAL_MS


async def enrol_people(
    database: Database, settings: Settings, *, now: datetime
) -> Mapping[str, int]:
    """Make the demo's users and mirror their accounts; repeating it changes nothing.

    Returns:
        The balance of each account that was read before, in minor units, by its number at the bank.
    """
    currencies = sorted({one.currency for person in PEOPLE for one in person.accounts})
    async with database.unit_of_work(DEFAULT_TENANT) as uow:
        everybody = [NewUser(one.user, one.name) for one in (*PEOPLE, WALLET)]
        await upsert_users(uow, everybody, now=now)
        for code in currencies:
            await open_book(uow, find_currency(code), now=now)
        accounts, interval_ms = _accounts(is_active=True), demo_interval_ms(settings)
        interval = timedelta(milliseconds=interval_ms) if interval_ms else None
        await enroll_accounts(uow, accounts, Enrollment(CORE_BANK, interval), now=now)
        users = [person.user for person in PEOPLE]
        known = await load_accounts(uow, users, CORE_BANK)
    return {
        one.number: one.posted for mine in known.values() for one in mine if one.read_at is not None
    }


async def rest_people(database: Database, *, now: datetime) -> None:
    """Let nobody ask for the demo's users: the bank that is asked from now on is not theirs."""
    async with database.unit_of_work(DEFAULT_TENANT) as uow:
        users = [person.user for person in PEOPLE]
        if await load_accounts(uow, users, CORE_BANK):
            accounts = _accounts(is_active=False)
            await enroll_accounts(uow, accounts, Enrollment(CORE_BANK, None), now=now)


def _accounts(*, is_active: bool) -> list[NewMirroredAccount]:
    return [
        NewMirroredAccount(
            person.user,
            CORE_BANK,
            one.number,
            find_currency(one.currency),
            account_type=one.kind,
            is_primary=one is person.accounts[0],
            is_active=is_active,
        )
        for person in PEOPLE
        for one in person.accounts
    ]
