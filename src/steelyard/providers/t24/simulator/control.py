"""The control surface of a served bank, under `/_control`: set balances and faults, read the truth.

GET    /_control                     counters, planned faults
GET    /_control/accounts            every true balance, in minor units
PUT    /_control/accounts/{number}   {"customer", "currency", "digits", "booked", …}
POST   /_control/faults              {"fault", "share"?, "accounts"?, "times"?, "wait_s"?}
DELETE /_control/faults
DELETE /_control/counts
"""

import json
from collections.abc import Callable

import msgspec

from steelyard.core.errors import InvalidInput
from steelyard.core.money import Currency
from steelyard.providers.t24.simulator.answers import Reply, json_reply
from steelyard.providers.t24.simulator.bank import AskedRequest, Counts, SimulatedBank
from steelyard.providers.t24.simulator.books import SimulatedAccount
from steelyard.providers.t24.simulator.faults import Fault, PlannedFault

_NOTHING = json_reply("{}")


class _AccountOrder(msgspec.Struct, forbid_unknown_fields=True):
    customer: str
    currency: str
    digits: int = 2
    booked: int = 0
    authorised: int = 0
    uncleared: int = 0
    locked: int = 0


class _FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    fault: Fault
    share: float = 1.0
    accounts: list[str] | None = None
    times: int | None = None
    wait_s: float = 1.0


def control_of(bank: SimulatedBank) -> Callable[[AskedRequest, bytes], Reply]:
    """Return what answers the control requests of a bank; it knows no faults and no limits."""

    def answer(request: AskedRequest, body: bytes) -> Reply:
        path = request.target.split("?")[0].removeprefix("/_control").strip("/")
        try:
            return _answer(bank, f"{request.method} {path}".strip(), body)
        except (msgspec.MsgspecError, InvalidInput) as error:
            return json_reply(json.dumps({"error": str(error)}), status=422)

    return answer


def _answer(bank: SimulatedBank, asked: str, body: bytes) -> Reply:
    match asked:
        case "GET":
            return json_reply(json.dumps(_told(bank)))
        case "GET accounts":
            told = {number: dict(one.truth()) for number, one in bank.books.accounts.items()}
            return json_reply(json.dumps(told))
        case "POST faults":
            order = msgspec.json.decode(body, type=_FaultOrder)
            accounts = frozenset(order.accounts) if order.accounts is not None else None
            bank.faults.add(
                PlannedFault(
                    order.fault, order.share, accounts, times=order.times, wait_s=order.wait_s
                )
            )
            return _NOTHING
        case "DELETE faults":
            bank.faults.clear()
            return _NOTHING
        case "DELETE counts":
            in_flight = bank.counts
            bank.counts = Counts(in_flight=in_flight.in_flight, in_flight_of=in_flight.in_flight_of)
            return _NOTHING
    if asked.startswith("PUT accounts/"):
        return _put_account(bank, asked.removeprefix("PUT accounts/"), body)
    return json_reply('{"error":"there is no such control"}', status=404)


def _put_account(bank: SimulatedBank, number: str, body: bytes) -> Reply:
    order = msgspec.json.decode(body, type=_AccountOrder)
    if not 0 <= order.digits <= 4:
        raise InvalidInput(field="digits", problem="a currency has 0 to 4")
    account = SimulatedAccount(
        number,
        order.customer,
        Currency(order.currency, order.digits),
        booked=order.booked,
        authorised=order.authorised,
        uncleared=order.uncleared,
        locked=order.locked,
    )
    return json_reply(json.dumps(dict(bank.books.add(account).truth())))


def _told(bank: SimulatedBank) -> dict[str, object]:
    counts = bank.counts
    return {
        "requests": counts.requests,
        "refused_as_too_many": counts.refused_as_too_many,
        "in_flight": counts.in_flight,
        "in_flight_max": counts.in_flight_max,
        "in_flight_max_of_one_customer": max(counts.in_flight_max_of.values(), default=0),
        "busiest_second": counts.busiest(1.0),
        "asked": dict(counts.asked),
        "faults": dict(counts.faults),
        "planned": [one.fault.value for one in bank.faults.planned],
    }
