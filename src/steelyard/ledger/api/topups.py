"""Top-ups as the clients of the reference ask for them: `/transactions/topup…`. Amounts are major units."""

from steelyard.access.admit_request import admit
from steelyard.access.roles import Permission, check_owner
from steelyard.core.clock import format_utc
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import TransactionId
from steelyard.ledger.api.context import (
    check_currency,
    major,
    minor_units,
    own_account,
    services_of,
)
from steelyard.ledger.api.shapes import ProcessBody, RtTransactionAnswer, TopupBody
from steelyard.ledger.model import Topup
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_body

TOPUP_ID_MAX = 64
_DECISIONS = {"success": True, "approved": True, "failed": False, "rejected": False}


async def request_topup(request: HotRequest) -> Answer:
    """Ask for money on the caller's account; nothing moves until someone else approves."""
    principal = await admit(request)
    body = read_body(request.body, TopupBody)
    balance = await own_account(request, principal, body.account_id)
    services = services_of(request)
    await check_currency(services, principal.tenant, balance.account, body.currency)
    topup = await services.ledger(principal.tenant).request_topup(
        balance.account, minor_units(body.amount, balance.currency), by=principal.subject
    )
    return Answer(201, _encode(topup, balance.available))


async def show_topup(request: HotRequest) -> Answer:
    """Return a top-up and the balance of its account."""
    principal = await admit(request)
    services = services_of(request)
    topup_id = _topup_id(request)
    topup = await services.ledger(principal.tenant).find_topup(topup_id)
    check_owner(principal, topup.user, kind="top-up", identifier=topup_id)
    balance = await services.reader.read(principal.tenant, topup.account)
    return Answer(200, _encode(topup, balance.available))


async def process_topup(request: HotRequest) -> Answer:
    """Approve or refuse a top-up, once, and never as its requester; the same decision again is answered alike."""
    principal = await admit(request)
    body = read_body(request.body, ProcessBody)
    approve = _DECISIONS.get(body.status)
    if approve is None:
        raise InvalidInput(field="status", problem="must be success, approved, failed or rejected")
    services = services_of(request)
    topup, posted = await services.ledger(principal.tenant).process_topup(
        _topup_id(request), approve=approve, by=principal.subject
    )
    if posted is not None:
        return Answer(200, _encode(topup, posted.available_after))
    balance = await services.reader.read(principal.tenant, topup.account)
    return Answer(200, _encode(topup, balance.available))


def _topup_id(request: HotRequest) -> str:
    text = request.params["topup"]
    if len(text) > TOPUP_ID_MAX or not text.isalnum() or not text.isascii():
        raise NotFound(kind="top-up", identifier=text[:40])
    return text


def _encode(topup: Topup, available: int) -> bytes:
    currency = find_currency(topup.currency)
    at = topup.processed_at or topup.requested_at
    transaction = None if topup.seq is None else str(TransactionId(topup.account, topup.seq))
    return encode_json(
        RtTransactionAnswer(
            id=topup.id,
            type="topup",
            status=topup.status,
            amount=major(topup.amount, currency),
            balance=major(available, currency),
            currency=currency.code,
            account_id=str(topup.account),
            user_id=topup.user,
            timestamp=format_utc(at),
            seq=topup.seq,
            reference=transaction,
        )
    )


def _routes(prefix: str) -> tuple[HotRoute, ...]:
    answers: dict[int, type] = {200: RtTransactionAnswer}
    return (
        HotRoute(
            f"{prefix}/transactions/topup",
            request_topup,
            method="POST",
            permission=Permission.TOPUP_REQUEST,
            operation=Operation(
                "Ask for a top-up; amounts are major units.",
                "transactions",
                {201: RtTransactionAnswer},
                ("not_found", "currency_mismatch"),
                body=TopupBody,
            ),
        ),
        HotRoute(
            f"{prefix}/transactions/topup/{{topup}}",
            show_topup,
            method="GET",
            permission=Permission.TOPUP_READ,
            operation=Operation("Show a top-up.", "transactions", answers, ("not_found",)),
        ),
        HotRoute(
            f"{prefix}/transactions/topup/{{topup}}/process",
            process_topup,
            method="PATCH",
            permission=Permission.TOPUP_PROCESS,
            operation=Operation(
                "Approve or refuse a top-up; never by its requester.",
                "transactions",
                answers,
                (
                    "not_found",
                    "topup_already_processed",
                    "requester_cannot_approve",
                    "balance_limit",
                ),
                body=ProcessBody,
            ),
        ),
    )


TOPUP_ROUTES = (*_routes(""), *_routes("/api"))
