"""The control surface of a served bank, under `/_control`: set balances and faults, read the truth.

GET    /_control                            counters, planned faults
GET    /_control/accounts                   every true balance, in minor units
GET    /_control/books                      the same with each account's customer and currency, and how often it was asked for
PUT    /_control/accounts/{number}          {"customer", "currency", "digits", "booked", …}
POST   /_control/accounts/{number}/entries  {"amount"}: a credit, or a debit below 0, in minor units
POST   /_control/faults                     {"fault", "share"?, "accounts"?, "times"?, "wait_s"?, "for_s"?}
DELETE /_control/faults
DELETE /_control/counts
PATCH  /_control/options                    {"latency"?, "requests_per_s"?, "in_flight"?, "maintenance"?}
"""

import json
from collections.abc import Callable
from dataclasses import replace

import msgspec
from msgspec import UNSET, UnsetType

from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.money import Currency
from steelyard.providers.t24.simulator.answers import Reply, json_reply
from steelyard.providers.t24.simulator.bank import AskedRequest, Counts, SimulatedBank
from steelyard.providers.t24.simulator.books import SimulatedAccount
from steelyard.providers.t24.simulator.faults import LATENCIES, Fault, PlannedFault
from steelyard.providers.t24.simulator.maintenance import read_window

ENTRY_MAX = 10**15
"""Largest credit or debit of one entry, in minor units."""

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
    for_s: float | None = None


class _EntryOrder(msgspec.Struct, forbid_unknown_fields=True):
    amount: int


class _OptionsOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What is left out stays; null takes a limit or the window away."""

    latency: str | UnsetType = UNSET
    requests_per_s: int | UnsetType | None = UNSET
    in_flight: int | UnsetType | None = UNSET
    maintenance: str | UnsetType | None = UNSET


def control_of(
    bank: SimulatedBank, *, on_books: Callable[[], None] | None = None
) -> Callable[[AskedRequest, bytes], Reply]:
    """Return what answers the control requests of a bank; it knows no faults and no limits.

    It does nothing for web pages: a browser says where a page comes from, and no page steers a bank.

    Args:
        bank: What is steered.
        on_books: Called after a change of the books, before anybody can ask for it.
    """

    def answer(request: AskedRequest, body: bytes) -> Reply:
        path = request.target.split("?")[0].removeprefix("/_control").strip("/")
        if "origin" in request.headers:
            return json_reply('{"error":"web pages steer no bank"}', status=403)
        try:
            reply = _answer(bank, f"{request.method} {path}".strip(), body)
        except (msgspec.MsgspecError, InvalidInput) as error:
            return json_reply(json.dumps({"error": str(error)}), status=422)
        except NotFound as error:
            return json_reply(json.dumps({"error": str(error)}), status=404)
        if on_books is not None and request.method != "GET" and path.startswith("accounts/"):
            on_books()
        return reply

    return answer


def _answer(bank: SimulatedBank, asked: str, body: bytes) -> Reply:
    match asked:
        case "GET":
            return json_reply(json.dumps(_told(bank)))
        case "GET accounts":
            told = {number: dict(one.truth()) for number, one in bank.books.accounts.items()}
            return json_reply(json.dumps(told))
        case "GET books":
            return json_reply(json.dumps(_books(bank)))
        case "POST faults":
            order = msgspec.json.decode(body, type=_FaultOrder)
            accounts = frozenset(order.accounts) if order.accounts is not None else None
            bank.faults.add(
                PlannedFault(
                    order.fault,
                    order.share,
                    accounts,
                    times=order.times,
                    wait_s=order.wait_s,
                    for_s=order.for_s,
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
        case "PATCH options":
            return _set_options(bank, msgspec.json.decode(body, type=_OptionsOrder))
    if asked.startswith("POST accounts/") and asked.endswith("/entries"):
        number = asked.removeprefix("POST accounts/").removesuffix("/entries")
        return _post_entry(bank, number, msgspec.json.decode(body, type=_EntryOrder))
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


def _books(bank: SimulatedBank) -> dict[str, object]:
    return {
        number: {
            "customer": one.customer,
            "currency": one.currency.code,
            "digits": one.currency.digits,
            "asked": bank.counts.asked[number],
            "balances": dict(one.truth()),
        }
        for number, one in sorted(bank.books.accounts.items())
    }


def _post_entry(bank: SimulatedBank, number: str, order: _EntryOrder) -> Reply:
    if abs(order.amount) > ENTRY_MAX:
        raise InvalidInput(field="amount", problem=f"it is beyond {ENTRY_MAX} minor units")
    return json_reply(json.dumps(dict(bank.books.post(number, order.amount).truth())))


def _set_options(bank: SimulatedBank, order: _OptionsOrder) -> Reply:
    given = {name: getattr(order, name) for name in order.__struct_fields__}
    given = {name: value for name, value in given.items() if value is not UNSET}
    if "latency" in given:
        if given["latency"] not in LATENCIES:
            raise InvalidInput(field="latency", problem=f"it is one of {', '.join(LATENCIES)}")
        given["latency"] = LATENCIES[given["latency"]]
    for name in ("requests_per_s", "in_flight"):
        if given.get(name) is not None and given[name] < 1:
            raise InvalidInput(field=name, problem="it is 1 or more, or null for no limit")
    if given.get("maintenance") is not None:
        given["maintenance"] = read_window(given["maintenance"])
    bank.options = replace(bank.options, **given)
    return _NOTHING


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
        "planned": [one.fault.value for one in bank.faults.list_current()],
    }
