"""Transactions as a list: own money's changes of one account or of all of a user's."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Struct

from steelyard.access.admit_request import admit
from steelyard.access.model import Principal, Role
from steelyard.access.pages import Place, read_cursor, write_cursor
from steelyard.access.roles import Permission
from steelyard.balances.model import Account, Change
from steelyard.balances.shapes import Cursor, PageSize
from steelyard.balances.store import find_account, find_change, list_accounts, list_history
from steelyard.core.clock import format_utc
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import AccountId, TransactionId, UserId, parse_account_id, parse_user_id
from steelyard.ledger.api.context import check_reader, services_of
from steelyard.runtime.database import UnitOfWork
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_query

MIRRORED = "mirrored"
ACCOUNTS_MAX = 20
"""How many accounts of a user one list covers."""


class ListQuery(Struct, forbid_unknown_fields=True):
    """What `GET /api/transactions` takes."""

    account_id: str | None = None
    user_id: str | None = None
    source: Literal["held", "mirrored"] | None = None
    cursor: Cursor | None = None
    limit: PageSize = 50


class ListedTransaction(Struct):
    """One change of one account, minor units. `source` is held for own money.

    Both sides of a transfer have an `id` of their own and share `transaction`; a mirrored change is of none.
    """

    id: str
    transaction: str | None
    account: str
    user: str | None
    source: str
    kind: str
    amount: int
    held_amount: int
    currency: str
    balance_after: int
    held_after: int
    available_after: int
    seq: int
    target: str | None
    counter_account: str | None
    details: msgspec.Raw
    posted_at: str


class TransactionPage(Struct):
    """Transactions, newest first; `next_cursor` leads to older ones."""

    data: list[ListedTransaction]
    next_cursor: str | None
    has_more: bool


async def list_transactions(request: HotRequest) -> Answer:
    """List the changes of one account, or of all accounts of a user, newest first."""
    principal = await admit(request)
    query = read_query(request.query, ListQuery)
    positions = _read_positions(query.cursor)
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        accounts = await _accounts_meant(uow, principal, query)
        if query.source is not None:
            accounts = [one for one in accounts if one.balance.kind == query.source]
        found: list[tuple[Change, Account]] = []
        for account in accounts:
            before = positions.get(account.balance.account)
            history = await list_history(
                uow, account.balance.account, before_seq=before, limit=query.limit + 1
            )
            found += [(change, account) for change in history]
    found.sort(key=lambda one: (one[0].posted_at, one[0].account, one[0].seq), reverse=True)
    page = found[: query.limit]
    for change, _ in page:
        positions[change.account] = min(change.seq, positions.get(change.account, change.seq))
    has_more = len(found) > len(page)
    return Answer(
        200,
        encode_json(
            TransactionPage(
                [_listed(change, account) for change, account in page],
                _write_positions(positions) if has_more else None,
                has_more,
            )
        ),
    )


def _write_positions(positions: Mapping[AccountId, int]) -> str:
    key = ",".join(f"{account}:{seq}" for account, seq in sorted(positions.items()))
    return write_cursor(Place("transactions", key))


def _read_positions(cursor: str | None) -> dict[AccountId, int]:
    """Return, per account, the seq before which the page begins."""
    key = read_cursor(cursor, of="transactions")
    positions: dict[AccountId, int] = {}
    for part in key.split(",") if key else ():
        account, _, seq = part.partition(":")
        if not all(n.isascii() and n.isdigit() and len(n) <= 18 for n in (account, seq)):
            raise InvalidInput(field="cursor", problem="it is no cursor of this list")
        positions[AccountId(int(account))] = int(seq)
    return positions


async def show_transaction(request: HotRequest) -> Answer:
    """Return one transaction by its id; to who received a transfer, the receiving side."""
    principal = await admit(request)
    transaction = TransactionId.parse(request.params["transaction"])
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        found = await _find_side(uow, transaction.account, transaction.seq)
        if found is not None and not _is_readable(principal, found[1]):
            change = found[0]
            found = None
            if change.contra is not None and change.contra_seq is not None:
                found = await _find_side(uow, change.contra, change.contra_seq)
    if found is None or not _is_readable(principal, found[1]):
        raise NotFound(kind="transaction", identifier=str(transaction))
    return Answer(200, encode_json(_listed(*found)))


async def _find_side(
    uow: UnitOfWork, account_id: AccountId, seq: int
) -> tuple[Change, Account] | None:
    account = await find_account(uow, account_id)
    change = account and await find_change(uow, account_id, seq)
    return (change, account) if account and change else None


def _is_readable(principal: Principal, account: Account) -> bool:
    return principal.role is not Role.USER or account.balance.user == principal.user


async def _accounts_meant(uow: UnitOfWork, principal: Principal, query: ListQuery) -> list[Account]:
    if query.account_id is not None:
        account = await find_account(uow, parse_account_id(query.account_id))
        if account is None:
            raise NotFound(kind="account", identifier=query.account_id[:40])
        check_reader(principal, account.balance)
        return [account]
    user: UserId | None = principal.user if principal.role is Role.USER else None
    if query.user_id is not None:
        named = parse_user_id(query.user_id)
        if user is not None and named != user:
            raise NotFound(kind="user", identifier=query.user_id[:40])
        user = named
    if user is None:
        raise InvalidInput(field="account_id", problem="name an account or a user")
    accounts = await list_accounts(uow, user=user, kind=query.source, limit=ACCOUNTS_MAX + 1)
    if len(accounts) > ACCOUNTS_MAX:
        raise InvalidInput(
            field="account_id",
            problem=f"the user has more than {ACCOUNTS_MAX} of these accounts; name one, or a source",
        )
    return accounts


def _listed(change: Change, account: Account) -> ListedTransaction:
    target = None if change.target_seq is None else TransactionId(change.account, change.target_seq)
    has_counter = change.contra is not None and change.contra_seq is not None
    return ListedTransaction(
        id=f"{change.account}-{change.seq}",
        transaction=None if account.balance.kind == MIRRORED else str(change.transaction),
        account=str(change.account),
        user=account.balance.user,
        source=account.balance.kind,
        kind=change.kind,
        amount=change.amount,
        held_amount=change.held_amount,
        currency=account.balance.currency.code,
        balance_after=change.balance_after,
        held_after=change.held_after,
        available_after=change.balance_after - change.held_after,
        seq=change.seq,
        target=None if target is None else str(target),
        counter_account=str(change.contra) if has_counter else None,
        details=msgspec.Raw((change.details or "null").encode()),
        posted_at=format_utc(change.posted_at),
    )


TRANSACTION_ROUTES = (
    HotRoute(
        "/api/transactions",
        list_transactions,
        method="GET",
        permission=Permission.TRANSACTIONS_READ,
        operation=Operation(
            "List transactions of one account, or of all accounts of a user, newest first.",
            "transactions",
            {200: TransactionPage},
            ("not_found",),
            query=ListQuery,
        ),
    ),
    HotRoute(
        "/api/transactions/{transaction}",
        show_transaction,
        method="GET",
        permission=Permission.TRANSACTIONS_READ,
        operation=Operation(
            "Show one transaction.", "transactions", {200: ListedTransaction}, ("not_found",)
        ),
    ),
)
