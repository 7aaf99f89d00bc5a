"""What the ledger's routes share: their services, the account they name, and the answer."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from steelyard.access.audit import record_audit
from steelyard.access.model import Principal, Role
from steelyard.access.roles import check_owner
from steelyard.balances.known_currencies import KnownCurrencies
from steelyard.balances.model import Balance
from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import AccountId, TenantId, parse_account_id
from steelyard.core.money import Currency, Money, shortest_major
from steelyard.ledger.api.shapes import answer_of
from steelyard.ledger.errors import CurrencyMismatch
from steelyard.ledger.model import Posted
from steelyard.ledger.operations import Ledger
from steelyard.runtime.database import Database
from steelyard.runtime.hot_routes import Answer, HotRequest, encode_json

REPLAYED = ((b"idempotent-replayed", b"true"),)


class LedgerServices(Protocol):
    """What these routes need of the process."""

    @property
    def clock(self) -> Clock: ...
    @property
    def database(self) -> Database: ...
    @property
    def reader(self) -> BalanceReader: ...
    def ledger(self, tenant: TenantId) -> Ledger: ...
    @property
    def currencies(self) -> KnownCurrencies: ...


def services_of(request: HotRequest) -> LedgerServices:
    """Return the services the process was built with."""
    services: LedgerServices = request.services
    return services


def account_named(text: str | int) -> AccountId:
    """Return the account a body or path names; ids are strings, integers are accepted.

    Raises:
        NotFound: It is no account id.
    """
    return parse_account_id(str(text))


async def check_currency(
    services: LedgerServices, tenant: TenantId, account: AccountId, given: str | None
) -> None:
    """Let pass what names no currency, or the account's own, which never changes.

    Raises:
        NotFound: No such account.
        CurrencyMismatch: It is another.
    """
    if given is None:
        return
    if await services.currencies.get(tenant, account) != given:
        raise CurrencyMismatch(account=account, other=f"this request, {given}")


async def record_order(
    request: HotRequest, action: str, target: str, details: Mapping[str, object]
) -> None:
    """Put on record who ordered something that only an admin may, before it is posted.

    Replays and refused orders leave a line too; none takes effect without one.
    """
    services, principal = services_of(request), request.principal
    async with services.database.unit_of_work(principal.tenant) as uow:
        await record_audit(
            uow,
            principal,
            action=action,
            target=target,
            outcome="ordered",
            now=services.clock.now(),
            request_id=request.request_id,
            details=details,
        )


def answer_posted(posted: Posted) -> Answer:
    """Return 201 with what was posted, or 200 with the same document where it was posted before."""
    body = encode_json(answer_of(posted))
    return Answer(200, body, REPLAYED) if posted.replayed else Answer(201, body)


def minor_units(amount: int | Decimal, currency: Currency) -> int:
    """Return an amount of major units, greater than nothing, as minor units; never through float.

    Raises:
        InvalidInput: Not positive, more digits than the currency has, an exponent, or too large.
    """
    minor = Money.parse(str(amount), currency).minor
    if minor < 1:
        raise InvalidInput(field="amount", problem="must be greater than 0")
    return minor


def major(minor: int, currency: Currency) -> msgspec.Raw:
    """Return minor units as a JSON number of major units in its shortest form."""
    return msgspec.Raw(shortest_major(minor, currency.digits).encode())


async def own_account(
    request: HotRequest, principal: Principal, named: str | int | None
) -> Balance:
    """Return the account a caller means: the named one, else its own primary account.

    A user reaches only what is its own.

    Raises:
        NotFound: No such account, another's, or the caller has none.
        InvalidInput: A caller that is no user named none.
    """
    services = services_of(request)
    if named is not None:
        account = account_named(named)
    elif principal.user is None or principal.role is not Role.USER:
        raise InvalidInput(field="accountId", problem="name the account; you are not its user")
    else:
        account = await services.ledger(principal.tenant).primary_account(principal.user)
    balance = await services.reader.read(principal.tenant, account)
    check_reader(principal, balance)
    return balance


def check_reader(principal: Principal, balance: Balance) -> None:
    """Let a user see only its own account; an account of the books is shown to no user.

    Raises:
        NotFound: It is another's; whether it exists is not told.
    """
    check_owner(principal, balance.user, kind="account", identifier=str(balance.account))
