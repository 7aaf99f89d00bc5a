"""Accounts and books over HTTP."""

from collections.abc import Mapping

from msgspec import Struct

from steelyard.access.admit_request import admit
from steelyard.access.audit import record_audit
from steelyard.access.model import Role
from steelyard.access.pages import Place, write_cursor
from steelyard.access.roles import Permission
from steelyard.balances import shapes
from steelyard.balances.api.context import (
    get_account,
    get_readable_account,
    read_position,
    services_of,
)
from steelyard.balances.errors import AccountExists
from steelyard.balances.model import Account, NewAccount
from steelyard.balances.store import list_accounts, open_accounts, open_book, set_floor
from steelyard.core.errors import NotFound
from steelyard.core.ids import AccountId, UserId, parse_account_id, parse_user_id
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import UnitOfWork
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_body, read_query


class ListQuery(Struct, forbid_unknown_fields=True):
    """What `GET /api/accounts` takes."""

    user: str | None = None
    cursor: shapes.Cursor | None = None
    limit: shapes.PageSize = 100


async def open_one_account(request: HotRequest) -> Answer:
    """Open a held account; 200 with the account there is where its reference was used for the same before."""
    principal = await admit(request)
    wanted = _new_account(read_body(request.body, shapes.AccountBody))
    services = services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        [(account_id, opened)] = await open_accounts(uow, [wanted], now=services.clock.now())
        account = await get_account(uow, account_id)
        _check_same(wanted, account)
        if opened:
            await _audit(uow, request, "account.open", f"account:{account_id}")
    return Answer(201 if opened else 200, encode_json(shapes.account_answer(account)))


async def open_many_accounts(request: HotRequest) -> Answer:
    """Open up to 10,000 held accounts, all or none."""
    principal = await admit(request)
    body = read_body(request.body, shapes.BulkBody)
    wanted = [_new_account(one) for one in body.accounts]
    services = services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        opened = await open_accounts(uow, wanted, now=services.clock.now())
        count = sum(is_new for _, is_new in opened)
        if count:
            await _audit(uow, request, "accounts.open", None, details={"opened": count})
    answers = [shapes.OpenedAnswer(str(account), is_new) for account, is_new in opened]
    return Answer(200, encode_json(shapes.BulkAnswer(answers)))


async def list_all_accounts(request: HotRequest) -> Answer:
    """List accounts by id; a user sees its own."""
    principal = await admit(request)
    query = read_query(request.query, ListQuery)
    user: UserId | None = principal.user if principal.role is Role.USER else None
    if query.user is not None:
        named = parse_user_id(query.user)
        if user is not None and named != user:
            raise NotFound(kind="user", identifier=query.user[:40])
        user = named
    position = read_position(query.cursor, of="accounts")
    after = None if position is None else AccountId(position)
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        found = await list_accounts(uow, user=user, after=after, limit=query.limit + 1)
    page = found[: query.limit]
    has_more = len(found) > len(page)
    cursor = write_cursor(Place("accounts", str(page[-1].balance.account))) if has_more else None
    items = [shapes.account_answer(account) for account in page]
    return Answer(200, encode_json(shapes.AccountPage(items, cursor, has_more)))


async def show_account(request: HotRequest) -> Answer:
    """Return an account with its standing."""
    principal = await admit(request)
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        account = await get_readable_account(uow, principal, request.params["account"])
    return Answer(200, encode_json(shapes.account_answer(account)))


async def change_account(request: HotRequest) -> Answer:
    """Set an account's floor; below it the account is suspended, at or above it that ends."""
    principal = await admit(request)
    body = read_body(request.body, shapes.FloorBody)
    account_id = parse_account_id(request.params["account"])
    services = services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        await set_floor(uow, account_id, body.floor, now=services.clock.now())
        account = await get_account(uow, account_id)
        facts = {"floor": body.floor, "suspended": account.balance.suspended}
        await _audit(uow, request, "account.set_floor", f"account:{account_id}", details=facts)
    return Answer(200, encode_json(shapes.account_answer(account)))


async def open_one_book(request: HotRequest) -> Answer:
    """Open the tenant's book in a currency; 200 where it is open already."""
    principal = await admit(request)
    currency = find_currency(read_body(request.body, shapes.BookBody).currency)
    services = services_of(request)
    async with services.database.unit_of_work(principal.tenant) as uow:
        opened = await open_book(uow, currency, now=services.clock.now())
        if opened:
            await _audit(uow, request, "book.open", f"book:{currency.code}")
    answer = shapes.BookAnswer(currency.code, currency.digits)
    return Answer(201 if opened else 200, encode_json(answer))


async def _audit(
    uow: UnitOfWork,
    request: HotRequest,
    action: str,
    target: str | None,
    *,
    details: Mapping[str, object] | None = None,
) -> None:
    await record_audit(
        uow,
        request.principal,
        action=action,
        target=target,
        now=services_of(request).clock.now(),
        request_id=request.request_id,
        details=details,
    )


def _new_account(body: shapes.AccountBody) -> NewAccount:
    return NewAccount(
        user=parse_user_id(str(body.user)),
        currency=find_currency(body.currency),
        reference=body.reference,
        name=body.name,
        floor=body.floor,
        is_primary=body.is_primary,
    )


def _check_same(wanted: NewAccount, account: Account) -> None:
    balance = account.balance
    if (balance.user, balance.currency) != (wanted.user, wanted.currency):
        raise AccountExists(account=balance.account)


ACCOUNT_ROUTES = (
    HotRoute(
        "/api/accounts",
        open_one_account,
        method="POST",
        permission=Permission.ACCOUNTS_WRITE,
        operation=Operation(
            "Open a held account; safe to repeat with a reference.",
            "accounts",
            {201: shapes.AccountAnswer, 200: shapes.AccountAnswer},
            ("not_found", "account_exists"),
            body=shapes.AccountBody,
        ),
    ),
    HotRoute(
        "/api/accounts/bulk",
        open_many_accounts,
        method="POST",
        permission=Permission.ACCOUNTS_WRITE,
        operation=Operation(
            "Open up to 10,000 held accounts, all or none; safe to repeat with references.",
            "accounts",
            {200: shapes.BulkAnswer},
            ("not_found",),
            body=shapes.BulkBody,
        ),
        takes_bulk=True,
    ),
    HotRoute(
        "/api/accounts",
        list_all_accounts,
        method="GET",
        permission=Permission.ACCOUNTS_READ,
        operation=Operation(
            "List accounts; a user sees its own.",
            "accounts",
            {200: shapes.AccountPage},
            query=ListQuery,
        ),
    ),
    HotRoute(
        "/api/accounts/{account}",
        show_account,
        method="GET",
        permission=Permission.ACCOUNTS_READ,
        operation=Operation(
            "Show an account.", "accounts", {200: shapes.AccountAnswer}, ("not_found",)
        ),
    ),
    HotRoute(
        "/api/accounts/{account}",
        change_account,
        method="PATCH",
        permission=Permission.ACCOUNTS_WRITE,
        operation=Operation(
            "Set an account's floor.",
            "accounts",
            {200: shapes.AccountAnswer},
            ("not_found",),
            body=shapes.FloorBody,
        ),
    ),
    HotRoute(
        "/api/books",
        open_one_book,
        method="POST",
        permission=Permission.ACCOUNTS_WRITE,
        operation=Operation(
            "Open the tenant's book in a currency.",
            "accounts",
            {201: shapes.BookAnswer, 200: shapes.BookAnswer},
            body=shapes.BookBody,
        ),
    ),
)
