"""Payment of a booking, as the clients of the reference ask for it: `POST /transactions`."""

from steelyard.access.admit_request import admit
from steelyard.access.roles import Permission
from steelyard.balances.model import Balance
from steelyard.core.clock import format_utc
from steelyard.core.errors import InvalidInput
from steelyard.ledger.api.context import (
    REPLAYED,
    check_currency,
    major,
    minor_units,
    own_account,
    services_of,
)
from steelyard.ledger.api.shapes import BookingBody, RtTransactionAnswer
from steelyard.ledger.errors import InsufficientFunds
from steelyard.ledger.model import Details
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.idempotency import check_key
from steelyard.runtime.strict_json import read_body


class InsufficientForBooking(InsufficientFunds):
    """The same refusal, told in major units as the reference's clients read it."""

    def __init__(self, refusal: InsufficientFunds, balance: Balance) -> None:
        super().__init__(
            account=refusal.account,
            available=refusal.available,
            floor=refusal.floor,
            required=refusal.required,
            currency=refusal.currency,
        )
        self.balance = balance

    def fields(self) -> dict[str, object]:
        """Return `required`, `current` and `shortfall` as numbers of major units."""
        currency = self.balance.currency
        return {
            "accountId": str(self.account),
            "currency": currency.code,
            "required": major(self.required, currency),
            "current": major(self.available, currency),
            "shortfall": major(self.shortfall, currency),
        }


async def pay_booking(request: HotRequest) -> Answer:
    """Take the price of a booking from the caller's account, or change nothing."""
    principal = await admit(request)
    key = check_key(request.idempotency_key)
    body = read_body(request.body, BookingBody)
    if body.type != "booking":
        raise InvalidInput(field="type", problem="must be 'booking'")
    balance = await own_account(request, principal, body.account_id)
    services = services_of(request)
    await check_currency(services, principal.tenant, balance.account, body.currency)
    reference = str(body.reference)
    try:
        posted = await services.ledger(principal.tenant).pay_booking(
            balance.account,
            minor_units(body.amount, balance.currency),
            key=key,
            about=Details(
                description=body.description, reference_model="booking", reference_id=reference
            ),
        )
    except InsufficientFunds as refusal:
        raise InsufficientForBooking(refusal, balance) from None
    answer = encode_json(
        RtTransactionAnswer(
            id=str(posted.transaction),
            type="booking",
            status="success",
            amount=major(posted.amount, balance.currency),
            balance=major(posted.available_after, balance.currency),
            currency=posted.currency,
            account_id=str(posted.account),
            user_id=posted.user or "",
            timestamp=format_utc(posted.posted_at),
            seq=posted.seq,
            reference=reference,
        )
    )
    return Answer(200, answer, REPLAYED) if posted.replayed else Answer(201, answer)


BOOKING_ROUTES = tuple(
    HotRoute(
        path,
        pay_booking,
        method="POST",
        permission=Permission.MONEY_BOOK,
        operation=Operation(
            "Pay a booking from the caller's primary account; amounts are major units.",
            "transactions",
            {201: RtTransactionAnswer, 200: RtTransactionAnswer},
            (
                "not_found",
                "insufficient_funds",
                "account_suspended",
                "idempotency_conflict",
                "currency_mismatch",
            ),
            body=BookingBody,
            needs_key=True,
        ),
    )
    for path in ("/transactions", "/api/transactions")
)
