"""What the routes of accounts and balances share."""

from typing import Protocol

from steelyard.access.model import Principal
from steelyard.access.pages import read_cursor
from steelyard.access.roles import check_owner
from steelyard.balances.last_known import LastKnownBalances
from steelyard.balances.model import Account
from steelyard.balances.read import BalanceReader
from steelyard.balances.shapes import SEQ_MAX
from steelyard.balances.store import find_account
from steelyard.core.clock import Clock
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import AccountId, parse_account_id
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.runtime.hot_routes import HotRequest


class BalanceServices(Protocol):
    """What these routes need of the process."""

    @property
    def database(self) -> Database: ...
    @property
    def reader(self) -> BalanceReader: ...
    @property
    def last_known(self) -> LastKnownBalances: ...
    @property
    def clock(self) -> Clock: ...


def services_of(request: HotRequest) -> BalanceServices:
    """Return the services the process was built with."""
    services: BalanceServices = request.services
    return services


async def get_account(uow: UnitOfWork, account_id: AccountId) -> Account:
    """Return an account. Raises NotFound."""
    account = await find_account(uow, account_id)
    if account is None:
        raise NotFound(kind="account", identifier=str(account_id))
    return account


async def get_readable_account(uow: UnitOfWork, principal: Principal, text: str) -> Account:
    """Return the account a path names, if the caller may see it. Raises NotFound."""
    account = await get_account(uow, parse_account_id(text))
    check_owner(principal, account.balance.user, kind="account", identifier=text)
    return account


def read_position(cursor: str | None, *, of: str) -> int | None:
    """Return the number a cursor stands for; None for the first page. Raises InvalidInput."""
    key = read_cursor(cursor, of=of)
    if key is None:
        return None
    if not (key.isascii() and key.isdigit() and len(key) <= 19 and 1 <= int(key) <= SEQ_MAX):
        raise InvalidInput(field="cursor", problem="it is no cursor of this list")
    return int(key)
