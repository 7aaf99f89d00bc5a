"""Money over HTTP: `POST /api/accounts/{account}/…`, each with an Idempotency-Key."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from steelyard.access.admit_request import admit
from steelyard.access.roles import Permission, require
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import AccountId, TransactionId, parse_account_id
from steelyard.ledger.api import shapes
from steelyard.ledger.api.context import (
    LedgerServices,
    account_named,
    answer_posted,
    check_currency,
    record_order,
    services_of,
)
from steelyard.ledger.model import Posted
from steelyard.ledger.operations import Ledger
from steelyard.runtime.hot_routes import Answer, HotHandler, HotRequest, HotRoute, Operation
from steelyard.runtime.idempotency import check_key
from steelyard.runtime.strict_json import read_body

Body = TypeVar("Body", bound=shapes.About)
Post = Callable[[Ledger, AccountId, str, Body], Awaitable[Posted]]


def _handler(name: str, shape: type[Body], post: Post[Body]) -> HotHandler:
    """Return the handler of one kind of order: who, key, body, account, currency, then the ledger."""

    async def handle(request: HotRequest) -> Answer:
        principal = await admit(request)
        key = check_key(request.idempotency_key)
        body = read_body(request.body, shape)
        account = parse_account_id(request.params["account"])
        services = services_of(request)
        currency = getattr(body, "currency", None)
        if currency is not None:
            await check_currency(services, principal.tenant, account, currency)
        return answer_posted(await post(services.ledger(principal.tenant), account, key, body))

    handle.__name__ = name
    return handle


def _charge(
    ledger: Ledger, account: AccountId, key: str, body: shapes.MoneyBody
) -> Awaitable[Posted]:
    return ledger.charge(account, body.amount, key=key, about=body.details())


def _recharge(
    ledger: Ledger, account: AccountId, key: str, body: shapes.MoneyBody
) -> Awaitable[Posted]:
    return ledger.recharge(account, body.amount, key=key, about=body.details())


def _refund(
    ledger: Ledger, account: AccountId, key: str, body: shapes.MoneyBody
) -> Awaitable[Posted]:
    return ledger.refund(account, body.amount, key=key, about=body.details())


async def adjust(request: HotRequest) -> Answer:
    """Correct a balance by a signed amount. Who ordered it is on record before it is posted."""
    principal = await admit(request)
    key = check_key(request.idempotency_key)
    body = read_body(request.body, shapes.AdjustmentBody)
    if body.amount == 0:
        raise InvalidInput(field="amount", problem="must not be 0")
    account = parse_account_id(request.params["account"])
    services = services_of(request)
    currency = await services.currencies.get(principal.tenant, account)
    await check_currency(services, principal.tenant, account, body.currency or currency)
    await record_order(request, "ledger.adjust", f"account:{account}", {"amount": body.amount})
    ledger = services.ledger(principal.tenant)
    return answer_posted(await ledger.adjust(account, body.amount, key=key, about=body.details()))


def _hold(ledger: Ledger, account: AccountId, key: str, body: shapes.HoldBody) -> Awaitable[Posted]:
    lasts = None if body.expires_in_s is None else timedelta(seconds=body.expires_in_s)
    return ledger.hold(account, body.amount, key=key, expires_in=lasts, about=body.details())


def _transfer(
    ledger: Ledger, account: AccountId, key: str, body: shapes.TransferBody
) -> Awaitable[Posted]:
    to = account_named(body.to_account)
    return ledger.transfer(account, to, body.amount, key=key, about=body.details())


async def reverse(request: HotRequest) -> Answer:
    """Take a transaction of this account back; forcing it is a permission of its own."""
    principal = await admit(request)
    key = check_key(request.idempotency_key)
    body = read_body(request.body, shapes.ReversalBody)
    if body.force:
        require(principal, Permission.MONEY_FORCE)
    account = parse_account_id(request.params["account"])
    transaction = _of_account(TransactionId.parse(body.transaction), account, "transaction")
    services = services_of(request)
    await check_currency(services, principal.tenant, account, body.currency)
    if body.force:
        await record_order(request, "ledger.force_reversal", f"transaction:{transaction}", {})
    return answer_posted(
        await services.ledger(principal.tenant).reverse(
            transaction, body.amount, key=key, forced=body.force, about=body.details()
        )
    )


async def capture(request: HotRequest) -> Answer:
    """Take what a hold set aside, or a part of it; the rest is given back."""
    services, ledger, hold, key = await _open_hold(request)
    body = read_body(request.body, shapes.CaptureBody)
    await check_currency(services, ledger.tenant, hold.account, body.currency)
    return answer_posted(await ledger.capture(hold, body.amount, key=key, about=body.details()))


async def release(request: HotRequest) -> Answer:
    """Give back what a hold set aside."""
    _, ledger, hold, key = await _open_hold(request)
    body = read_body(request.body, shapes.ReleaseBody)
    return answer_posted(await ledger.release(hold, key=key, about=body.details()))


async def _open_hold(request: HotRequest) -> tuple[LedgerServices, Ledger, TransactionId, str]:
    principal = await admit(request)
    key = check_key(request.idempotency_key)
    account = parse_account_id(request.params["account"])
    hold = _of_account(TransactionId.parse(request.params["hold"]), account, "hold")
    services = services_of(request)
    return services, services.ledger(principal.tenant), hold, key


def _of_account(transaction: TransactionId, account: AccountId, kind: str) -> TransactionId:
    if transaction.account != account:
        raise NotFound(kind=kind, identifier=str(transaction))
    return transaction


_REFUSED = ("not_found", "idempotency_conflict", "balance_limit", "currency_mismatch")
_SPENDING = (*_REFUSED, "insufficient_funds", "account_suspended")


def _route(
    path: str,
    handler: HotHandler,
    permission: Permission,
    summary: str,
    *,
    body: type,
    problems: tuple[str, ...],
) -> HotRoute:
    answers: dict[int, type] = {201: shapes.TransactionAnswer, 200: shapes.TransactionAnswer}
    is_optional = body in (shapes.CaptureBody, shapes.ReleaseBody)
    return HotRoute(
        f"/api/accounts/{{account}}/{path}",
        handler,
        method="POST",
        permission=permission,
        operation=Operation(
            summary,
            "money",
            answers,
            problems,
            body=body,
            needs_key=True,
            body_is_optional=is_optional,
        ),
    )


MONEY_ROUTES = (
    _route(
        "charges",
        _handler("charge", shapes.MoneyBody, _charge),
        Permission.MONEY_CHARGE,
        "Take an amount from an account, or change nothing.",
        body=shapes.MoneyBody,
        problems=_SPENDING,
    ),
    _route(
        "recharges",
        _handler("recharge", shapes.MoneyBody, _recharge),
        Permission.MONEY_RECHARGE,
        "Add an amount to an account.",
        body=shapes.MoneyBody,
        problems=_REFUSED,
    ),
    _route(
        "refunds",
        _handler("refund", shapes.MoneyBody, _refund),
        Permission.MONEY_REVERSE,
        "Give an amount back that was spent, without naming a transaction.",
        body=shapes.MoneyBody,
        problems=_REFUSED,
    ),
    _route(
        "adjustments",
        adjust,
        Permission.MONEY_ADJUST,
        "Correct a balance by a signed amount.",
        body=shapes.AdjustmentBody,
        problems=_REFUSED,
    ),
    _route(
        "transfers",
        _handler("transfer", shapes.TransferBody, _transfer),
        Permission.MONEY_TRANSFER,
        "Move an amount to another account of the same currency.",
        body=shapes.TransferBody,
        problems=(*_SPENDING, "same_account"),
    ),
    _route(
        "reversals",
        reverse,
        Permission.MONEY_REVERSE,
        "Take a transaction of this account back, whole or in part.",
        body=shapes.ReversalBody,
        problems=(
            *_SPENDING,
            "not_reversible",
            "already_reversed",
            "reversal_exceeds_transaction",
        ),
    ),
    _route(
        "holds",
        _handler("hold", shapes.HoldBody, _hold),
        Permission.MONEY_HOLD,
        "Set an amount aside; the transaction's id is the hold's.",
        body=shapes.HoldBody,
        problems=_SPENDING,
    ),
    _route(
        "holds/{hold}/capture",
        capture,
        Permission.MONEY_HOLD,
        "Take what a hold set aside, or a part of it.",
        body=shapes.CaptureBody,
        problems=(*_REFUSED, "hold_not_open", "capture_exceeds_hold"),
    ),
    _route(
        "holds/{hold}/release",
        release,
        Permission.MONEY_HOLD,
        "Give back what a hold set aside.",
        body=shapes.ReleaseBody,
        problems=(*_REFUSED, "hold_not_open"),
    ),
)
