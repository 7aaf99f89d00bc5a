"""A small world to test in: a fresh database, the ledger with all its parts, accounts with money."""

import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from steelyard.access.tenants import create_tenant
from steelyard.balances.model import Balance, Change, NewAccount
from steelyard.balances.read import BalanceReader
from steelyard.balances.store import list_changes_since, open_accounts, open_book
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.operations import Ledger
from steelyard.ledger.publish import PublishChanges
from steelyard.runtime.bus import InProcessBus, RecentEvents
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Connection, Database, connect
from steelyard.runtime.ids import RandomIds
from steelyard.runtime.provision import prepare_database, url_for_login

LOGIN = "steelyard_test_login"
PASSWORD = "only on a test server"


@dataclass(frozen=True)
class FreshDatabase:
    """A database of a test's own."""

    name: str
    admin_url: str
    """As superuser: to look behind the wall, and to break things."""
    app_url: str
    """As the application logs in."""


def with_database(url: str, name: str) -> str:
    """Return `url` for another database of the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def make_template(admin_url: str, name: str) -> None:
    """Create and migrate a database to copy from."""
    connection = await connect(admin_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    await prepare_database(with_database(admin_url, name), login=LOGIN, password=PASSWORD)


async def make_fresh(admin_url: str, template: str) -> FreshDatabase:
    """Copy the template: some hundredths of a second."""
    name = f"sy_test_{secrets.token_hex(6)}"
    connection = await connect(admin_url)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    await connection.close()
    url = with_database(admin_url, name)
    return FreshDatabase(name, url, url_for_login(url, LOGIN, PASSWORD))


async def drop_database(admin_url: str, name: str) -> None:
    """Drop it, whoever is still connected."""
    connection = await connect(admin_url)
    await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    await connection.close()


@dataclass
class World:
    """Everything between a caller and the tables."""

    database: Database
    fresh: FreshDatabase
    clock: SystemClock
    bus: InProcessBus
    cache: InProcessCache
    heard: RecentEvents
    commit: GroupCommit
    reader: BalanceReader
    opened: int = 0
    others: list[GroupCommit] = field(default_factory=list)

    @classmethod
    async def open(cls, database: Database, fresh: FreshDatabase) -> "World":
        """Put the parts together; make the default tenant with a book in GBP."""
        clock, bus, heard = SystemClock(), InProcessBus(), RecentEvents()
        cache = InProcessCache(clock)
        bus.subscribe(heard)
        commit = GroupCommit(fresh.app_url, clock, PublishChanges(bus, cache, clock))
        reader = BalanceReader(database, cache, clock)
        made = cls(database, fresh, clock, bus, cache, heard, commit, reader)
        await made.make_tenant(DEFAULT_TENANT)
        return made

    async def close(self) -> None:
        """Close what was opened."""
        for commit in (self.commit, *self.others):
            await commit.close()

    def another_process(self) -> GroupCommit:
        """A second group commit on connections of its own, as another process would have."""
        commit = GroupCommit(self.fresh.app_url, self.clock, self.commit.publish)
        self.others.append(commit)
        return commit

    def ledger(
        self, tenant: TenantId = DEFAULT_TENANT, *, commit: GroupCommit | None = None
    ) -> Ledger:
        """The ledger of one tenant."""
        ids = RandomIds()
        return Ledger(tenant, self.database, commit or self.commit, self.reader, self.clock, ids)

    async def make_tenant(self, tenant: TenantId, *currencies: str) -> None:
        """Make a tenant with its books."""
        now = self.clock.now()
        await create_tenant(self.database, tenant, name=tenant, time_zone="UTC", now=now)
        async with self.database.unit_of_work(tenant) as uow:
            for code in currencies or ("GBP",):
                await open_book(uow, find_currency(code), now=now)

    async def open_account(
        self,
        balance: int = 0,
        *,
        tenant: TenantId = DEFAULT_TENANT,
        user: str | None = None,
        currency: str = "GBP",
        floor: int = 0,
    ) -> AccountId:
        """Open an account of a new user (or of `user`) and recharge it."""
        self.opened += 1
        now = self.clock.now()
        name = user or f"user-{self.opened}"
        async with self.database.unit_of_work(tenant) as uow:
            await uow.execute(
                "INSERT INTO steelyard.app_user (tenant_id, id, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                tenant,
                name,
                now,
            )
            wanted = NewAccount(UserId(name), find_currency(currency), floor=floor)
            [(account, _)] = await open_accounts(uow, [wanted], now=now)
        if balance:
            await self.ledger(tenant).recharge(account, balance)
        return account

    async def balance(self, account: AccountId, tenant: TenantId = DEFAULT_TENANT) -> Balance:
        """The balance as the database has it."""
        return await self.reader.read(tenant, account)

    async def changes(self, account: AccountId, tenant: TenantId = DEFAULT_TENANT) -> list[Change]:
        """All changes of an account, oldest first."""
        async with self.database.unit_of_work(tenant) as uow:
            return await list_changes_since(uow, account, after_seq=0, limit=1_000_000)

    async def as_superuser(self) -> Connection:
        """A connection that no wall stops."""
        return await connect(self.fresh.admin_url)
