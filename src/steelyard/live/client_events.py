"""What clients may say, and what is answered. Each event declares the permission it asks for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

import msgspec

from steelyard.access.authenticate import Authenticator
from steelyard.access.roles import Permission, is_allowed
from steelyard.core.clock import Clock, format_utc
from steelyard.core.errors import DatabaseUnavailable, InvalidInput, Overloaded
from steelyard.core.ids import AccountId, TenantId
from steelyard.core.money import shortest_major
from steelyard.live.admit import check_token, read_accounts
from steelyard.live.events import (
    AUTH_REFRESHED,
    BALANCE_CURRENT,
    BALANCE_SUBSCRIBED,
    ERROR,
    LiveEvent,
    json_event,
    replayed_events_of,
)
from steelyard.live.figures import LiveFigures
from steelyard.live.heal import Healer
from steelyard.live.join import NO_ACCOUNT, Join, initial_of
from steelyard.live.limits import REFUSALS_MAX, MessageLimit
from steelyard.live.session import Seat, Session, SessionEnded
from steelyard.live.store import load_changes_after
from steelyard.live.transport import Ending, Refused
from steelyard.runtime.currencies import find_currency

RECENT_MAX = 100
CATCH_UP_S = 2.0
"""How long an asked-for balance waits for the steps before it to be told."""


class _Ports(Protocol):
    @property
    def authenticator(self) -> Authenticator: ...
    @property
    def clock(self) -> Clock: ...


class Hearing(Protocol):
    """What client events need of the gateway."""

    @property
    def ports(self) -> _Ports: ...
    @property
    def figures(self) -> LiveFigures: ...
    @property
    def messages(self) -> MessageLimit: ...
    @property
    def healer(self) -> Healer: ...
    @property
    def join(self) -> Join: ...
    def bring(self, session: Session, account: AccountId) -> None: ...


Act = Callable[[Hearing, Session, Mapping[str, object]], Awaitable[LiveEvent]]


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One thing a client may say: who may, which fields it takes, and what answers it.

    The answer's payload is the acknowledgement too.
    """

    permission: Permission
    fields: frozenset[str]
    act: Act


async def do_client_event(
    hearing: Hearing, session: Session, name: str, data: object
) -> str | None:
    """Do what a client's event asks for; answer what is acknowledged, as JSON text.

    Whatever is wrong with it becomes an `error` event, whose payload is acknowledged.
    """
    wait_s = hearing.messages.wait_s(session.caller)
    if wait_s > 0:
        return _refuse_flood(hearing, session, wait_s)
    session.refused_in_row = 0
    known = CLIENT_EVENTS.get(name)
    if known is None:
        session.complain("unknown_event", "there is no such event")
        return None if session.ended else '{"code":"unknown_event"}'
    if data is None:
        data = {}
    if not isinstance(data, dict) or not data.keys() <= known.fields:
        session.complain("invalid_input", f"{name} takes an object of {sorted(known.fields)}")
        return None if session.ended else '{"code":"invalid_input"}'
    session.understood()
    if not is_allowed(session.principal, known.permission):
        return _answer(session, _error("forbidden", f"the role may not {name}"))
    try:
        answer = await known.act(hearing, session, data)
    except SessionEnded:
        return None
    except Refused as refused:
        return _answer(session, _error(refused.ending.word, str(refused)))
    except (InvalidInput, DatabaseUnavailable, Overloaded) as error:
        return _answer(session, _error(error.code, str(error)))
    return None if session.ended else answer.payload


def _refuse_flood(hearing: Hearing, session: Session, wait_s: float) -> str | None:
    hearing.figures.rate_limited += 1
    session.refused_in_row += 1
    if session.refused_in_row > REFUSALS_MAX:
        session.end(Ending.TOO_MANY)
        return None
    fields = {
        "code": "rate_limited",
        "message": "too many messages; nothing was done",
        "retry_after_ms": max(1, round(wait_s * 1000)),
    }
    return _answer(session, json_event(ERROR, fields))


def _error(code: str, message: str) -> LiveEvent:
    return json_event(ERROR, {"code": code, "message": message})


def _answer(session: Session, event: LiveEvent) -> str:
    session.put(event)
    return event.payload


async def _subscribe(hearing: Hearing, session: Session, data: Mapping[str, object]) -> LiveEvent:
    """Say whose balance is followed; with `accounts: "all"` follow all of the user's accounts from now on."""
    wants_all = read_accounts(data.get("accounts"))
    if wants_all and not session.wants_all:
        session.wants_all = True
        for account in await hearing.join.find_accounts(session):
            hearing.bring(session, account)
    fields = {"userId": session.user, "balance": msgspec.Raw(_current(session).encode())}
    event = json_event(BALANCE_SUBSCRIBED, fields)
    session.put(event)
    return event


async def _tell_current(hearing: Hearing, session: Session, _: Mapping[str, object]) -> LiveEvent:
    """Tell the balance as the database has it, and `balance_initial` of every account again."""
    for seat in list(session.seats.values()):
        await _catch_up(hearing, seat)
    event = LiveEvent(BALANCE_CURRENT, f'{{"balance":{_current(session)}}}')
    session.put(event)
    shown = [seat for seat in session.seats.values() if seat.position is not None]
    for seat in shown:
        assert seat.position is not None, "only those were taken"
        standing = (seat.posted, seat.held, seat.position)
        session.put(initial_of(seat, standing, ',"resumed":true'))
    if not session.seats:
        session.put(NO_ACCOUNT)
    return event


async def _catch_up(hearing: Hearing, seat: Seat) -> None:
    """See to it that the seat is at least where the database is now."""
    tenant = TenantId(seat.session.owner[0])
    balance = await hearing.join.reader.read(tenant, seat.account)
    if seat.position is None or seat.position >= balance.seq:
        return
    hearing.healer.want(hearing.join.watch_of((tenant, seat.account)))
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + CATCH_UP_S
    while (seat.position or 0) < balance.seq and seat.session.ended is None:
        if loop.time() >= deadline_s:
            raise DatabaseUnavailable(doing="reading the newest changes")
        await asyncio.sleep(0.01)


async def _tell_recent(hearing: Hearing, session: Session, data: Mapping[str, object]) -> LiveEvent:
    """Tell the last changes of one account again, oldest first."""
    limit = data.get("limit", RECENT_MAX)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= RECENT_MAX:
        raise InvalidInput(field="limit", problem=f"must be from 1 to {RECENT_MAX}")
    seat = _seat_named(session, data.get("accountId"))
    events: list[LiveEvent] = []
    if seat is not None and seat.position is not None:
        head = seat.position
        place = (TenantId(session.owner[0]), seat.account, max(0, head - limit))
        for step in await load_changes_after(hearing.join.database, [place], limit=limit):
            if step.seq is not None and step.seq <= head:
                events.extend(replayed_events_of(step))
    for event in events:
        await session.room()
        session.put(event)
    count = sum(event.name == "balance_updated" for event in events)
    return LiveEvent("recent_events", f'{{"count":{count}}}')


def _seat_named(session: Session, named: object) -> Seat | None:
    """Return the seat of an account the session shows; another user's account is not told apart from none."""
    if named is None:
        return next(iter(session.seats.values()), None)
    if isinstance(named, str) and named.isascii() and named.isdigit() and len(named) <= 18:
        found = session.seats.get(AccountId(int(named)))
        if found is not None:
            return found
    raise InvalidInput(field="accountId", problem="is no account of this session")


async def _refresh(hearing: Hearing, session: Session, data: Mapping[str, object]) -> LiveEvent:
    """Let the session live as long as a newer token of the same tenant, subject and role."""
    token = data.get("token")
    if not isinstance(token, str) or not token:
        raise InvalidInput(field="token", problem="must be a token")
    ports = hearing.ports
    found = await check_token(token, ports.authenticator, ports.clock)
    mine, other = session.principal, found.principal
    if (mine.tenant, mine.subject, mine.role) != (other.tenant, other.subject, other.role):
        raise Refused(Ending.FORBIDDEN, why="the token is another caller's; nothing was changed")
    session.credential, session.expires_at = token, found.expires_at
    session.was_warned = False
    event = json_event(AUTH_REFRESHED, {"expiresAt": moment_or_none(found.expires_at)})
    session.put(event)
    return event


def moment_or_none(moment: datetime | None) -> str | None:
    """Write a moment, or None where there is no end."""
    return None if moment is None else format_utc(moment)


def _current(session: Session) -> str:
    """Return the balance of the session's first account in major units, as JSON."""
    for seat in session.seats.values():
        if seat.position is not None:
            return shortest_major(seat.posted - seat.held, find_currency(seat.currency).digits)
    return "0"


CLIENT_EVENTS: Mapping[str, ClientEvent] = MappingProxyType(
    {
        "subscribe_balance": ClientEvent(
            Permission.BALANCE_READ, frozenset({"accounts"}), _subscribe
        ),
        "get_current_balance": ClientEvent(Permission.BALANCE_READ, frozenset(), _tell_current),
        "get_recent_events": ClientEvent(
            Permission.TRANSACTIONS_READ, frozenset({"accountId", "limit"}), _tell_recent
        ),
        "auth_refresh": ClientEvent(Permission.LIVE_CONNECT, frozenset({"token"}), _refresh),
    }
)
"""Every event a client may send, as docs/reference/events.md lists them."""
