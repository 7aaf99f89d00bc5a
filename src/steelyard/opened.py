"""Steelyard inside a Python program: `async with steelyard.open() as s: await s.ledger.charge(…)`."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from steelyard.access.model import system_principal
from steelyard.access.tenants import create_tenant
from steelyard.access.users import NewUser, check_new_user, upsert_users
from steelyard.app import Services, open_services
from steelyard.balances.model import Balance, NewAccount
from steelyard.balances.store import open_accounts, open_book
from steelyard.core.ids import (
    DEFAULT_TENANT,
    AccountId,
    TenantId,
    UserId,
    parse_tenant_id,
    parse_user_id,
)
from steelyard.ledger.model import Details, Posted
from steelyard.ledger.operations import Ledger
from steelyard.mirror.apply_readings import PublishReadings
from steelyard.reconcile.model import Discrepancy, Report
from steelyard.reconcile.operations import Reconcile
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.datafolder import open_folder
from steelyard.runtime.instance import reach_embedded
from steelyard.runtime.settings import load_settings
from steelyard.sync.enroll import enrollment_of
from steelyard.sync.enroll_items import EnrolmentCall, ItemOutcome, enroll_items
from steelyard.sync.for_programs import TenantBalanceSync
from steelyard.sync.open_sync import CORE_BANK


@dataclass(frozen=True, slots=True)
class TenantServices:
    """What a program does for one tenant."""

    services: Services
    tenant_id: TenantId

    @property
    def ledger(self) -> Ledger:
        """The tenant's own money: charge, recharge, hold, transfer, reverse, …"""
        return self.services.ledger(self.tenant_id)

    @property
    def reconcile(self) -> Reconcile:
        """Proof and repair of the tenant's balances."""
        services = self.services
        return Reconcile(
            services.database, self.tenant_id, services.clock, services.cache, services.bus
        )

    @property
    def balance_sync(self) -> TenantBalanceSync:
        """Balances at the core bank: `sync_with_timeout`, `queue_sync`, `get_status`, `start`, `stop`.

        This process syncs from `start` on only; servers do from their beginning.
        """
        return TenantBalanceSync(self.services.sync, self.tenant_id)

    async def balance(self, account: AccountId) -> Balance:
        """Return an account's balance as the database has it now.

        Raises:
            NotFound: No such account in this tenant.
        """
        return await self.services.reader.read(self.tenant_id, account)

    async def open_account(
        self, user: str, currency: str, *, reference: str | None = None, floor: int = 0
    ) -> AccountId:
        """Open a held account; its user and the tenant's book in the currency are made where missing.

        Args:
            user: 1 to 128 printable characters.
            currency: ISO 4217 code.
            reference: Your own name for the account, unique in the tenant: calling again answers the same account.
            floor: Least available balance a charge may leave, minor units.
        Raises:
            InvalidInput: A value is not acceptable.
        """
        owner, money, now = parse_user_id(user), find_currency(currency), self.services.clock.now()
        new = NewUser(owner)
        check_new_user(new)
        wanted = NewAccount(owner, money, reference=reference, floor=floor)
        async with self.services.database.unit_of_work(self.tenant_id) as uow:
            await upsert_users(uow, [new], now=now)
            await open_book(uow, money, now=now)
            return (await open_accounts(uow, [wanted], now=now))[0][0]

    async def enroll_users(
        self, users: Sequence[Mapping[str, object]], *, currency: str | None = None
    ) -> list[ItemOutcome]:
        """Bring up to 1,000 users and their accounts at the core bank to what is said of them; a repeat is safe.

        Args:
            users: In the form of `POST /api/sync/users`: `username`, `context`, `isActive`, `accounts`, …
            currency: Of new accounts that name none.
        Returns:
            What became of each, in order; those that are not refused are written together.
        Raises:
            InvalidInput: More than 1,000 users, or no such currency.
        """
        services, tenant = self.services, self.tenant_id
        call = EnrolmentCall(
            system_principal(tenant, "program"),
            enrollment_of(services.settings, CORE_BANK),
            None if currency is None else find_currency(currency),
        )
        items = [dict(user) for user in users]
        async with services.database.unit_of_work(tenant) as uow:
            enrolled = await enroll_items(uow, items, call, now=services.clock.now())
        for user in enrolled.forgotten:
            services.authenticator.forget_user(tenant, user)
        PublishReadings(services.bus, services.cache)(enrolled.events)
        return enrolled.outcomes

    async def charge_service(
        self,
        user: str,
        amount: int,
        service_type: str,
        description: str | None = None,
        *,
        reference_model: str | None = None,
        reference_id: str | None = None,
        key: str | None = None,
    ) -> Posted:
        """Charge a user's primary account `amount` minor units, or change nothing.

        The reference's `chargeService`. Without a `key` a repeat is a second charge.

        Raises:
            NotFound: The user has no account.
            InsufficientFunds, AccountSuspended: See `Ledger.charge`.
        """
        about = Details(description, service_type, reference_model, reference_id)
        account = await self.ledger.primary_account(UserId(user))
        return await self.ledger.charge(account, amount, key=key, about=about)

    async def verify_and_fix_balance(self, user: str | None = None) -> Report:
        """Prove, and repair what can be proved: all of the tenant, or one user. The reference's name for it."""
        return await self.reconcile.verify_and_fix(None if user is None else UserId(user))

    async def rebuild_all_balances(self) -> Report:
        """Recompute every account from its changes. The reference's name for it."""
        return await self.reconcile.rebuild_all()

    async def get_balance_discrepancies(self) -> list[Discrepancy]:
        """Return every discrepancy, the largest first. The reference's name for it."""
        return await self.reconcile.discrepancies()


@dataclass(frozen=True, slots=True)
class Steelyard(TenantServices):
    """An open Steelyard; its own services are those of the default tenant."""

    def tenant(self, tenant: str) -> TenantServices:
        """Return the services of a tenant; it is not looked up until something is asked of it.

        Raises:
            InvalidInput: It is no tenant id.
        """
        return TenantServices(self.services, parse_tenant_id(tenant))

    async def create_tenant(self, tenant: str, *, name: str | None = None) -> TenantServices:
        """Make a tenant where it is missing, and return its services.

        Raises:
            InvalidInput: Id or name is not acceptable.
        """
        made, services = self.tenant(tenant), self.services
        await create_tenant(
            services.database, made.tenant_id, name=name or tenant, now=services.clock.now()
        )
        return made


@asynccontextmanager
async def open(  # noqa: A001 - read as `steelyard.open`
    url: str | None = None, *, data_dir: Path | str | None = None
) -> AsyncIterator[Steelyard]:
    """Open the product inside this program, without its HTTP server; close it in order on leaving.

    Args:
        url: PostgreSQL as the role that `steelyard migrate` makes; else STEELYARD_DATABASE_URL; else the
            embedded one in the data folder, which is started for the time being or shared with a running `up`.
        data_dir: Data folder of the embedded one; STEELYARD_DATA_DIR or ./.steelyard if not given.
    Raises:
        SteelyardError: The database cannot be reached, is at another revision or is not safe to use.
    """
    settings = load_settings()
    if url is None and settings.database_url is not None:
        url = settings.database_url.get_secret_value()
    async with AsyncExitStack() as closing:
        if url is None:
            folder = open_folder(Path(data_dir) if data_dir is not None else settings.data_dir)
            url = await closing.enter_async_context(
                reach_embedded(folder.path, report=lambda _: None)
            )
        # Nobody signs in here: a secret that is never told believes no token.
        services = await closing.enter_async_context(
            open_services(
                settings,
                database_url=url,
                made_secret=secrets.token_urlsafe(32),
                starts_sync=False,
            )
        )
        opened = Steelyard(services, DEFAULT_TENANT)
        await opened.create_tenant(DEFAULT_TENANT, name="Default")
        yield opened
