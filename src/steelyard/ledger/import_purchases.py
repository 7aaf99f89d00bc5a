"""Loads card purchases into a tenant's ledger: each line once, however often it is run.

Every card becomes a user `card-N` with an account of that reference. A purchase is a charge, money
given back is a refund. Nothing remembers how far an import came: each line's key does, so an
interrupted import run again posts what is missing and replays the rest.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import ClassVar, Protocol, TypeVar

from steelyard.access.users import NewUser, upsert_users
from steelyard.balances.model import NewAccount
from steelyard.balances.store import load_balances, open_accounts, open_book, sum_amounts_under
from steelyard.core.clock import Clock
from steelyard.core.errors import Retry, SteelyardError
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.core.money import Currency
from steelyard.ledger.errors import CurrencyMismatch
from steelyard.ledger.model import Kind, Order, Posted
from steelyard.ledger.purchases import Purchase, RefusedLine
from steelyard.runtime.database import Database

ORDERS_AT_ONCE = 512
ACCOUNTS_AT_ONCE = 500
REFUSED_LINES_KEPT = 1_000
PATIENCE_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
_LINES_BETWEEN_TURNS = 1_000

T = TypeVar("T")

ReadLines = Callable[[], Iterator[Purchase | RefusedLine]]
"""Begins at the first line each time it is called."""


class Posts(Protocol):
    """Takes an order and answers when it is committed; many at once."""

    async def post(self, order: Order) -> Posted:
        """Commit one order."""
        ...


@dataclass(frozen=True, slots=True)
class ImportPorts:
    """What an import works with."""

    database: Database
    commit: Posts
    clock: Clock


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to load: for whom, under which source name, and whether to top cards up first."""

    tenant: TenantId
    source: str
    currency: Currency
    tops_up: bool
    is_strict: bool = False


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far it is, in lines that are purchases."""

    step: str
    done: int
    total: int


@dataclass(slots=True)
class ImportOutcome:
    """What an import did. Amounts are minor units; `refused` keeps the first 1,000 lines."""

    lines: int = 0
    cards: int = 0
    accounts_opened: int = 0
    topped_up: int = 0
    topped_up_minor: int = 0
    charges: int = 0
    refunds: int = 0
    already_there: int = 0
    refused_count: int = 0
    refused: list[RefusedLine] = field(default_factory=list)

    def refuse(self, line: RefusedLine) -> None:
        """Count a refused line, and keep it while there is room."""
        self.refused_count += 1
        if len(self.refused) < REFUSED_LINES_KEPT:
            self.refused.append(line)


class ImportRefused(SteelyardError):
    """A strict import found lines it would have to leave out, and wrote nothing."""

    code: ClassVar[str] = "import_refused"

    def __init__(self, *, outcome: ImportOutcome) -> None:
        self.outcome = outcome
        first = outcome.refused[0]
        super().__init__(
            f"{outcome.refused_count} of {outcome.lines} lines cannot be taken, the first is line {first.line} "
            f"({first.field}: {first.reason}); nothing was written"
        )

    def fields(self) -> dict[str, object]:
        """Return the refused lines that were kept."""
        return {
            "refused_count": self.outcome.refused_count,
            "refused": [
                {"line": one.line, "field": one.field, "reason": one.reason}
                for one in self.outcome.refused
            ],
        }


class PurchaseOrder(Order, frozen=True):
    """An order whose key stands for its line: the same line at another place in the file is the same order."""

    def body_hash(self) -> bytes:
        """Return the SHA-256 of everything but the tenant and the details, which tell the line number."""
        body = f"import|{self.kind}|{self.account}|{self.amount}|{self.key}"
        return sha256(body.encode()).digest()


async def import_purchases(
    ports: ImportPorts,
    request: ImportRequest,
    read: ReadLines,
    *,
    report: Callable[[ImportProgress], None] = lambda _: None,
) -> ImportOutcome:
    """Post every line that was not posted before, and say which were refused and why.

    Reads the lines twice: first to know the cards and what they need, then to post. Holds the cards
    and at most 512 orders in memory. `posted_at` is the moment of the import; the line's own date is
    in the details. With `tops_up` each card first gets the sum of its purchases in this source, less
    what this source topped it up with before.

    Raises:
        ImportRefused: `is_strict`, and a line cannot be taken; nothing was written.
        InvalidInput: The header is not the one expected; nothing was written.
        CurrencyMismatch: A card's account exists in another currency; nothing was posted.
        DatabaseUnavailable: No answer for 60 s; run it again to go on.
    """
    outcome, needed = await _survey(read, request)
    report(ImportProgress("accounts", 0, outcome.lines))
    accounts = await _open_accounts(ports, request, list(needed), outcome)
    if request.tops_up:
        report(ImportProgress("top-ups", 0, outcome.lines))
        await _top_up(
            ports, request, {accounts[card]: minor for card, minor in needed.items()}, outcome
        )
    done = outcome.refused_count
    for chunk in _chunks(read(), ORDERS_AT_ONCE):
        purchases = [line for line in chunk if isinstance(line, Purchase) and line.card in accounts]
        await _post(ports, request, purchases, accounts, outcome=outcome)
        done += len(purchases)
        report(ImportProgress("purchases", done, outcome.lines))
    return outcome


async def _survey(read: ReadLines, request: ImportRequest) -> tuple[ImportOutcome, dict[str, int]]:
    """Read all lines once; return the refused ones, and per card what its purchases add up to."""
    outcome, needed = ImportOutcome(), dict[str, int]()
    for line in read():
        outcome.lines += 1
        if outcome.lines % _LINES_BETWEEN_TURNS == 0:
            await asyncio.sleep(0)
        if isinstance(line, RefusedLine):
            outcome.refuse(line)
        else:
            needed[line.card] = needed.get(line.card, 0) + max(line.amount.minor, 0)
    if request.is_strict and outcome.refused_count:
        raise ImportRefused(outcome=outcome)
    outcome.cards = len(needed)
    return outcome, needed


async def _open_accounts(
    ports: ImportPorts, request: ImportRequest, cards: list[str], outcome: ImportOutcome
) -> dict[str, AccountId]:
    """Open what is missing: the book, a user and an account for each card."""
    tenant, currency, now = request.tenant, request.currency, ports.clock.now()
    accounts: dict[str, AccountId] = {}
    async with ports.database.unit_of_work(tenant) as uow:
        await open_book(uow, currency, now=now)
    for start in range(0, len(cards), ACCOUNTS_AT_ONCE):
        some = cards[start : start + ACCOUNTS_AT_ONCE]
        names = [f"card-{card}" for card in some]
        async with ports.database.unit_of_work(tenant) as uow:
            await upsert_users(uow, [NewUser(UserId(name)) for name in names], now=now)
            wanted = [
                NewAccount(UserId(name), currency, reference=name, name=f"Card {card}")
                for card, name in zip(some, names, strict=True)
            ]
            opened = await open_accounts(uow, wanted, now=now)
        outcome.accounts_opened += sum(is_new for _, is_new in opened)
        found = dict(zip(some, (account for account, _ in opened), strict=True))
        for balance in await load_balances(
            ports.database, [(tenant, account) for account in found.values()]
        ):
            if balance.currency != currency:
                raise CurrencyMismatch(account=balance.account, other=f"the file ({currency.code})")
        accounts |= found
    return accounts


async def _top_up(
    ports: ImportPorts,
    request: ImportRequest,
    needed: dict[AccountId, int],
    outcome: ImportOutcome,
) -> None:
    """Recharge each account by what its purchases need beyond what this source brought before.

    The key holds the new total, so that repeating it, or two imports at once, recharge once.
    """
    prefix = f"import/{request.source}/topup/"
    async with ports.database.unit_of_work(request.tenant) as uow:
        brought = await sum_amounts_under(uow, prefix)
    details = json.dumps({"source": request.source, "description": "Top-up for imported purchases"})
    orders = [
        Order(
            request.tenant,
            Kind.RECHARGE,
            account,
            minor - brought.get(account, 0),
            f"{prefix}{account}/{minor}",
            details=details,
        )
        for account, minor in needed.items()
        if minor > brought.get(account, 0)
    ]
    for some in _chunks(iter(orders), ORDERS_AT_ONCE):
        for posted in await asyncio.gather(*(_post_patiently(ports, order) for order in some)):
            if isinstance(posted, SteelyardError):
                raise posted
            outcome.topped_up += 1
            outcome.topped_up_minor += posted.amount


async def _post(
    ports: ImportPorts,
    request: ImportRequest,
    purchases: list[Purchase],
    accounts: dict[str, AccountId],
    *,
    outcome: ImportOutcome,
) -> None:
    orders = [order_of(request, purchase, accounts[purchase.card]) for purchase in purchases]
    answers = await asyncio.gather(*(_post_patiently(ports, order) for order in orders))
    for purchase, answer in zip(purchases, answers, strict=True):
        if isinstance(answer, SteelyardError):
            outcome.refuse(RefusedLine(purchase.line, answer.code, str(answer)))
        elif answer.replayed:
            outcome.already_there += 1
        elif answer.kind is Kind.REFUND:
            outcome.refunds += 1
        else:
            outcome.charges += 1


def order_of(request: ImportRequest, purchase: Purchase, account: AccountId) -> PurchaseOrder:
    """Return the order that posts a purchase: a charge, or a refund where the amount is negative."""
    details = {
        "source": request.source,
        "line": purchase.line,
        "date": purchase.on.isoformat(),
        "merchant": purchase.merchant,
    }
    return PurchaseOrder(
        request.tenant,
        Kind.CHARGE if purchase.amount.minor > 0 else Kind.REFUND,
        account,
        abs(purchase.amount.minor),
        purchase.key,
        details=json.dumps(details, ensure_ascii=False, separators=(",", ":")),
    )


async def _post_patiently(ports: ImportPorts, order: Order) -> Posted | SteelyardError:
    """Post one order; ask again with the same key while the database is away. Returns a refusal.

    Raises:
        DatabaseUnavailable: Or another error that passes, when it did not pass for 60 s.
    """
    until_s, pause_s = ports.clock.monotonic_s() + PATIENCE_S, _FIRST_PAUSE_S
    while True:
        try:
            return await ports.commit.post(order)
        except SteelyardError as error:
            if error.retry is not Retry.LATER:
                return error
            if ports.clock.monotonic_s() > until_s:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
