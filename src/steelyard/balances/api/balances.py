"""Balances over HTTP: stored, cached, as a series of changes and as a history."""

from msgspec import Struct

from steelyard.access.admit_request import admit, admit_reader
from steelyard.access.model import Principal
from steelyard.access.pages import Place, write_cursor
from steelyard.access.roles import Permission, check_owner
from steelyard.balances import shapes
from steelyard.balances.api.context import (
    get_readable_account,
    read_position,
    services_of,
)
from steelyard.balances.store import list_changes_since, list_history
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import AccountId, parse_account_id
from steelyard.core.money import shortest_major
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_query


class ChangesQuery(Struct, forbid_unknown_fields=True):
    """What `GET /api/accounts/{account}/changes` takes."""

    after_seq: int = 0
    limit: shapes.PageSize = 100


class HistoryQuery(Struct, forbid_unknown_fields=True):
    """What `GET /api/accounts/{account}/history` takes."""

    cursor: shapes.Cursor | None = None
    limit: shapes.PageSize = 50


async def show_balance(request: HotRequest) -> Answer:
    """Return the balance as the database has it; when it is away, the last one known and its age."""
    principal = await admit_reader(request)
    account = parse_account_id(request.params["account"])
    balance, stale_s = await services_of(request).last_known.read(principal.tenant, account)
    check_owner(principal, balance.user, kind="account", identifier=request.params["account"])
    return Answer(200, encode_json(shapes.balance_answer(balance, stale_s=stale_s)))


async def show_own_balance(request: HotRequest) -> Answer:
    """Return the balance of the caller's primary account."""
    principal = await admit_reader(request)
    account = await _primary_account(request, principal)
    balance, stale_s = await services_of(request).last_known.read(principal.tenant, account)
    return Answer(200, encode_json(shapes.balance_answer(balance, stale_s=stale_s)))


async def show_cached_balance(request: HotRequest) -> Answer:
    """Return the available balance of the caller's primary account in major units, from the cache if it is there."""
    principal = await admit_reader(request)
    account = await _primary_account(request, principal)
    held, cached = await services_of(request).reader.read_cached(principal.tenant, account)
    number = shortest_major(held.available, held.digits)
    return Answer(
        200, b'{"balance":%b,"cached":%b}' % (number.encode(), b"true" if cached else b"false")
    )


async def list_changes(request: HotRequest) -> Answer:
    """List an account's changes after a position, oldest first."""
    principal = await admit(request)
    query = read_query(request.query, ChangesQuery)
    if not 0 <= query.after_seq <= shapes.SEQ_MAX:
        raise InvalidInput(field="after_seq", problem="must be 0 or a seq")
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        account = await get_readable_account(uow, principal, request.params["account"])
        found = await list_changes_since(
            uow, account.balance.account, after_seq=query.after_seq, limit=query.limit + 1
        )
    page = found[: query.limit]
    answer = shapes.ChangesAnswer(
        str(account.balance.account),
        account.balance.currency.code,
        [shapes.change_answer(change) for change in page],
        page[-1].seq if page else query.after_seq,
        len(found) > len(page),
    )
    return Answer(200, encode_json(answer))


async def show_history(request: HotRequest) -> Answer:
    """List an account's changes, newest first."""
    principal = await admit(request)
    query = read_query(request.query, HistoryQuery)
    before = read_position(query.cursor, of="history")
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        account = await get_readable_account(uow, principal, request.params["account"])
        found = await list_history(
            uow, account.balance.account, before_seq=before, limit=query.limit + 1
        )
    page = found[: query.limit]
    answer = shapes.HistoryPage(
        str(account.balance.account),
        account.balance.currency.code,
        [shapes.change_answer(change) for change in page],
        write_cursor(Place("history", str(page[-1].seq))) if len(found) > len(page) else None,
        len(found) > len(page),
    )
    return Answer(200, encode_json(answer))


async def _primary_account(request: HotRequest, principal: Principal) -> AccountId:
    if principal.user is None:
        raise NotFound(kind="account of", identifier=principal.subject)
    last_known = services_of(request).last_known
    account = await last_known.primary_account(principal.tenant, principal.user)
    if account is None:
        raise NotFound(kind="account of user", identifier=principal.user)
    return account


BALANCE_ROUTES = (
    HotRoute(
        "/api/accounts/{account}/balance",
        show_balance,
        method="GET",
        permission=Permission.BALANCE_READ,
        operation=Operation(
            "Show the balance of an account.",
            "balances",
            {200: shapes.BalanceAnswer},
            ("not_found",),
        ),
    ),
    HotRoute(
        "/api/balance",
        show_own_balance,
        method="GET",
        permission=Permission.BALANCE_READ,
        operation=Operation(
            "Show the balance of the caller's primary account.",
            "balances",
            {200: shapes.BalanceAnswer},
            ("not_found",),
        ),
    ),
    HotRoute(
        "/api/accounts/{account}/changes",
        list_changes,
        method="GET",
        permission=Permission.TRANSACTIONS_READ,
        operation=Operation(
            "List an account's changes after a position, oldest first.",
            "balances",
            {200: shapes.ChangesAnswer},
            ("not_found",),
            query=ChangesQuery,
        ),
    ),
    HotRoute(
        "/api/accounts/{account}/history",
        show_history,
        method="GET",
        permission=Permission.TRANSACTIONS_READ,
        operation=Operation(
            "List an account's changes, newest first.",
            "balances",
            {200: shapes.HistoryPage},
            ("not_found",),
            query=HistoryQuery,
        ),
    ),
    *(
        HotRoute(
            path,
            show_cached_balance,
            method="GET",
            permission=Permission.BALANCE_READ,
            operation=Operation(
                "Show the caller's available balance in major units, from the cache where it is there.",
                "transactions",
                {200: shapes.CachedAnswer},
                ("not_found",),
            ),
        )
        for path in ("/transactions/balance/cached", "/api/transactions/balance/cached")
    ),
)
