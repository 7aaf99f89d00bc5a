"""The simulated bank: who may ask, how much it bears, and what it answers."""

import base64
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import time
from random import Random
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from steelyard.core.clock import Clock
from steelyard.core.money import Currency
from steelyard.providers.t24.manifest import PAGE_ROWS
from steelyard.providers.t24.simulator.answers import (
    Manner,
    Reply,
    bearer_reply,
    empty_reply,
    iris_reply,
    json_reply,
    middleware_reply,
)
from steelyard.providers.t24.simulator.books import Books, SimulatedAccount
from steelyard.providers.t24.simulator.faults import (
    BAD_VALUES,
    LATENCIES,
    Fault,
    FaultPlan,
    Latency,
    PlannedFault,
)
from steelyard.providers.t24.simulator.spoil import spoiled

TIMES_KEPT_MAX: Final = 200_000

_BEARER = re.compile(r"/account/([^/]+)/balance")
_MIDDLEWARE = re.compile(r"/api/esb/accounts/account/v1/balances/([^/]+)")
_IRIS = "/holdings/accounts/balances"


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """A request as it came."""

    method: str
    target: str
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case names."""


@dataclass(frozen=True, slots=True)
class BankOptions:
    """How the bank is set up.

    Args:
        key: What a caller must show.
        user: Of HTTP Basic, for the middleware.
        requests_per_s: More in any second are answered with 429; None: no limit.
        in_flight: More at once are answered with 429; None: no limit.
        latency: How long it thinks.
        has_number_amounts: Amounts are JSON numbers instead of strings.
        maintenance: UTC times of day between which it answers 503; the first may be the later one.
    """

    key: str = "simulated-key"
    user: str = "steelyard"
    requests_per_s: int | None = None
    in_flight: int | None = None
    latency: Latency = LATENCIES["none"]
    has_number_amounts: bool = False
    maintenance: tuple[time, time] | None = None


@dataclass(slots=True)
class Counts:
    """What the bank saw. `times` are seconds of its clock, the newest 200,000."""

    requests: int = 0
    refused_as_too_many: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    in_flight_of: Counter[str] = field(default_factory=Counter)
    in_flight_max_of: Counter[str] = field(default_factory=Counter)
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES_KEPT_MAX))

    def busiest(self, window_s: float) -> int:
        """Return the most requests that began within any window of so many seconds."""
        most, inside = 0, deque[float]()
        for moment in self.times:
            inside.append(moment)
            while inside[0] <= moment - window_s:
                inside.popleft()
            most = max(most, len(inside))
        return most


@dataclass(frozen=True, slots=True)
class _Question:
    """What a request asks for: one account or a customer, in one dialect."""

    dialect: str
    number: str | None = None
    customer: str | None = None
    start: int = 1
    size: int = PAGE_ROWS


class SimulatedBank:
    """Answers requests from its books. One event loop; give it a clock to run under virtual time."""

    def __init__(
        self, books: Books, *, chance: Random, clock: Clock, options: BankOptions | None = None
    ) -> None:
        self.books, self.options = books, options or BankOptions()
        self.faults, self.counts = FaultPlan(clock.monotonic_s), Counts()
        self._chance, self._clock = chance, clock

    @classmethod
    def seeded(
        cls,
        seed: int,
        *,
        clock: Clock,
        customers: int = 10,
        currency: Currency,
        options: BankOptions | None = None,
    ) -> "SimulatedBank":
        """Return a bank whose books, latencies and faults follow from the seed."""
        chance = Random(seed)  # noqa: S311 - chance that can be repeated
        books = Books.seeded(chance, customers=customers, currency=currency)
        return cls(books, chance=chance, clock=clock, options=options)

    def move_one(self) -> SimulatedAccount | None:
        """Post a small credit or debit to some account and return it."""
        return self.books.move_one(self._chance)

    @contextmanager
    def answering(self, request: AskedRequest) -> Iterator[Reply]:
        """Count a request in for as long as its answer takes, and give the answer."""
        question = _read_question(request)
        asked_by = self._asked_by(question)
        now_s = self._clock.monotonic_s()
        self.counts.requests += 1
        is_too_many = self._is_too_many(now_s)
        self.counts.times.append(now_s)
        self._count_in(asked_by)
        try:
            if is_too_many:
                self.counts.refused_as_too_many += 1
                yield Reply(429, {"Retry-After": "1"})
            else:
                yield self._decide(request, question)
        finally:
            self._count_out(asked_by)

    def _is_too_many(self, now_s: float) -> bool:
        limits, counts = self.options, self.counts
        if limits.in_flight is not None and counts.in_flight >= limits.in_flight:
            return True
        if limits.requests_per_s is None:
            return False
        recent = 0
        for moment in reversed(counts.times):
            if moment <= now_s - 1.0:
                break
            recent += 1
        return recent >= limits.requests_per_s

    def _asked_by(self, question: _Question | None) -> str:
        if question is None:
            return "nobody"
        found = self.books.find(question.number or "")
        return question.customer or (found.customer if found else "unknown")

    def _count_in(self, asked_by: str) -> None:
        counts = self.counts
        counts.in_flight += 1
        counts.in_flight_max = max(counts.in_flight_max, counts.in_flight)
        counts.in_flight_of[asked_by] += 1
        counts.in_flight_max_of[asked_by] = max(
            counts.in_flight_max_of[asked_by], counts.in_flight_of[asked_by]
        )

    def _count_out(self, asked_by: str) -> None:
        self.counts.in_flight -= 1
        self.counts.in_flight_of[asked_by] -= 1

    def _decide(self, request: AskedRequest, question: _Question | None) -> Reply:
        if question is None:
            return Reply(404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>")
        if not self._is_known(request, question.dialect):
            return json_reply('{"error":"unauthorised"}', status=401)
        numbers = self._numbers_of(question)
        self.counts.asked.update(numbers)
        planned = self.faults.draw(self._chance, numbers)
        if planned is None and self._is_in_maintenance():
            planned = PlannedFault(Fault.MAINTENANCE, wait_s=60)
        bad = planned.fault if planned is not None and planned.fault in BAD_VALUES else None
        reply = self._answer(question, Manner(self.options.has_number_amounts, bad))
        reply = replace(reply, delay_s=self.options.latency.draw_s(self._chance))
        if planned is None:
            return reply
        self.counts.faults[planned.fault.value] += 1
        return reply if bad is not None else spoiled(reply, planned)

    def _numbers_of(self, question: _Question) -> frozenset[str]:
        if question.customer is not None:
            mine = self.books.list_of_customer(question.customer)
            return frozenset(one.number for one in mine)
        return frozenset({question.number or ""})

    def _is_known(self, request: AskedRequest, dialect: str) -> bool:
        key, user = self.options.key, self.options.user
        basic = "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()
        shown = {"bearer": f"Bearer {key}", "middleware": basic, "iris": key}
        return request.headers.get("authorization") == shown[dialect]

    def _is_in_maintenance(self) -> bool:
        if self.options.maintenance is None:
            return False
        begin, end = self.options.maintenance
        now = self._clock.now().time()
        return begin <= now < end if begin <= end else now >= begin or now < end

    def _answer(self, question: _Question, manner: Manner) -> Reply:
        if question.customer is not None:
            mine = self.books.list_of_customer(question.customer)
            first = question.start - 1
            page = mine[first : first + min(question.size, PAGE_ROWS)]
            return iris_reply(page, manner, start=question.start, total=len(mine))
        account = self.books.find(question.number or "")
        if question.dialect == "bearer":
            if account is None:
                return json_reply('{"error":"unknown account"}', status=404)
            return bearer_reply(account, manner)
        if account is None:
            return empty_reply()
        if question.dialect == "middleware":
            return middleware_reply(account, manner)
        return iris_reply([account], manner, start=1, total=1)


def _read_question(request: AskedRequest) -> _Question | None:
    parts = urlsplit(request.target)
    if request.method == "POST" and (match := _BEARER.fullmatch(parts.path)):
        return _Question("bearer", unquote(match[1]))
    if request.method != "GET":
        return None
    if match := _MIDDLEWARE.fullmatch(parts.path):
        return _Question("middleware", unquote(match[1]))
    if parts.path != _IRIS:
        return None
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if "accountId" in query:
        return _Question("iris", query["accountId"])
    start, size = query.get("page_start", "1"), query.get("page_size", str(PAGE_ROWS))
    if "customerId" not in query or not (start.isdecimal() and size.isdecimal()):
        return None
    return _Question("iris", customer=query["customerId"], start=max(int(start), 1), size=int(size))
