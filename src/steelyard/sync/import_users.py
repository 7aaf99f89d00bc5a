"""Loads a file of users and their accounts, chunk by chunk: however often it is run, the file is what holds."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import ClassVar, Final

import asyncpg

from steelyard.access.audit import record_audit
from steelyard.access.model import system_principal
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, SteelyardError
from steelyard.core.ids import TenantId, UserId
from steelyard.core.money import Currency
from steelyard.runtime.database import Database
from steelyard.sync.enroll import Enrollment
from steelyard.sync.enroll_users import counts_of, enroll_users, plan_enrolment
from steelyard.sync.enrolment import Counts, GivenUser, ItemRefused, RefusedItem
from steelyard.sync.enrolment_file import Item
from steelyard.sync.enrolment_rules import Memory, remember

LINES_AT_ONCE: Final = 1_000
REFUSED_KEPT: Final = 1_000
PATIENCE_S: Final = 60.0
CHECK: Final = "check"
WRITE: Final = "write"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

ReadItems = Callable[[], Iterator[Item]]
"""Begins at the first line each time it is called."""
OpenMemory = Callable[[], Memory]
"""Gives an empty one each time it is called."""


class OnError(StrEnum):
    """What happens when items cannot be taken."""

    KEEP = "keep"
    """The others are written."""
    REFUSE = "refuse"
    """Nothing is."""


@dataclass(frozen=True, slots=True)
class ImportPorts:
    """What an import works with. `refuse` is told every refused item, once, in the order of the lines."""

    database: Database
    clock: Clock
    open_memory: OpenMemory
    refuse: Callable[[RefusedItem], None] = lambda _: None
    actor: str = "cli"


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to load: for whom, where the accounts are, and what happens with what cannot be taken."""

    tenant: TenantId
    enrollment: Enrollment
    source: str
    """Name of the file, for the audit record."""
    currency: Currency | None = None
    """Of new accounts that name none."""
    on_error: OnError = OnError.KEEP
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far it is: items read and refused so far. `step` is `check` or `write`."""

    step: str
    items: int
    refused: int


@dataclass(slots=True)
class ImportOutcome:
    """What an import did, or in a dry run would do. `refused` keeps the first 1,000 items."""

    items: int = 0
    counts: Counts = field(default_factory=Counts)
    refused_count: int = 0
    refused: list[RefusedItem] = field(default_factory=list)


class UsersRefused(SteelyardError):
    """An import that takes all or nothing found items it would have to leave out, and wrote nothing."""

    code: ClassVar[str] = "import_refused"

    def __init__(self, *, outcome: ImportOutcome) -> None:
        self.outcome = outcome
        first = outcome.refused[0]
        super().__init__(
            f"{outcome.refused_count} of {outcome.items} lines cannot be taken, the first is line {first.line} "
            f"({first.field}: {first.reason}); nothing was written"
        )

    def fields(self) -> dict[str, object]:
        """Return the refused items that were kept."""
        return {
            "refused_count": self.outcome.refused_count,
            "refused": [refused_as_json(one) for one in self.outcome.refused],
        }


def refused_as_json(one: RefusedItem) -> dict[str, object]:
    """Return a refused item as JSON values."""
    return {
        "line": one.line,
        "user": one.user,
        "field": one.field,
        "code": one.code.value,
        "reason": one.reason,
    }


async def import_users(
    ports: ImportPorts,
    request: ImportRequest,
    read: ReadItems,
    *,
    report: Callable[[ImportProgress], None] = lambda _: None,
) -> ImportOutcome:
    """Bring users and accounts to what a file says of them, and say which lines were refused and why.

    A chunk of 1,000 lines is one unit of work with one audit line, so what was interrupted is run again to go on: what
    is there already is left as it is. To take all or nothing, the whole file is checked first, in itself and against
    what is there, and written only if nothing is refused; a line that becomes unacceptable meanwhile, because somebody
    else writes at the same time, is refused alone. A dry run only checks.

    Raises:
        UsersRefused: `REFUSE`, and a line cannot be taken; nothing was written.
        InvalidInput: The file as a whole cannot be read; nothing was written.
        DatabaseUnavailable: No answer for 60 s; run it again to go on.
    """
    if request.is_dry_run or request.on_error is OnError.REFUSE:
        outcome = await _Pass(ports, request, report, CHECK, ports.open_memory()).run(read)
        if request.on_error is OnError.REFUSE and outcome.refused_count:
            raise UsersRefused(outcome=outcome)
        if request.is_dry_run:
            return outcome
    return await _Pass(ports, request, report, WRITE, ports.open_memory()).run(read)


@dataclass(slots=True)
class _Chunk:
    """Items that are written together."""

    users: list[GivenUser] = field(default_factory=list)
    refused: list[RefusedItem] = field(default_factory=list)
    counted: set[UserId] = field(default_factory=set)
    """Users who came in an earlier chunk."""
    _seen: set[UserId] = field(default_factory=set)

    @property
    def is_full(self) -> bool:
        return len(self.users) + len(self.refused) >= LINES_AT_ONCE

    def goes_on_with(self, item: Item) -> bool:
        """Whether an item is about the user of the one before; for so long only, that memory stays bounded."""
        if isinstance(item, RefusedItem) or not self.users:
            return False
        return item.id == self.users[-1].id and len(self.users) < 2 * LINES_AT_ONCE

    def add(self, item: GivenUser, *, is_first: bool) -> None:
        if not is_first and item.id not in self._seen:
            self.counted.add(item.id)
        self._seen.add(item.id)
        self.users.append(item)


@dataclass(slots=True)
class _Pass:
    """One reading of the file."""

    ports: ImportPorts
    request: ImportRequest
    report: Callable[[ImportProgress], None]
    step: str
    memory: Memory
    outcome: ImportOutcome = field(default_factory=ImportOutcome)

    async def run(self, read: ReadItems) -> ImportOutcome:
        outcome = self.outcome
        async for chunk in self._chunks(read()):
            counts, refused = await self._patiently(chunk) if chunk.users else (Counts(), [])
            outcome.counts.add(counts)
            for one in sorted([*chunk.refused, *refused], key=lambda item: item.line):
                self._refuse(one)
            self.report(ImportProgress(self.step, outcome.items, outcome.refused_count))
        return outcome

    async def _chunks(self, items: Iterator[Item]) -> AsyncIterator[_Chunk]:
        """Yield items that agree with all before them; lines that follow each other stay together with their user."""
        chunk = _Chunk()
        for item in items:
            if chunk.is_full and not chunk.goes_on_with(item):
                yield chunk
                chunk = _Chunk()
                await asyncio.sleep(0)
            self.outcome.items += 1
            if isinstance(item, RefusedItem):
                chunk.refused.append(item)
                continue
            try:
                is_first = remember(self.memory, item)
            except ItemRefused as refusal:
                chunk.refused.append(refusal.at(item.line, item.id))
            else:
                chunk.add(item, is_first=is_first)
        if chunk.users or chunk.refused:
            yield chunk

    def _refuse(self, item: RefusedItem) -> None:
        self.outcome.refused_count += 1
        if len(self.outcome.refused) < REFUSED_KEPT:
            self.outcome.refused.append(item)
        self.ports.refuse(item)

    async def _patiently(self, chunk: _Chunk) -> tuple[Counts, list[RefusedItem]]:
        """Do a chunk; do it again while the database is away, or ended it for somebody else's sake."""
        clock = self.ports.clock
        until_s, pause_s = clock.monotonic_s() + PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                return await (self._check(chunk) if self.step == CHECK else self._write(chunk))
            except (DatabaseUnavailable, asyncpg.DeadlockDetectedError):
                if clock.monotonic_s() > until_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _check(self, chunk: _Chunk) -> tuple[Counts, list[RefusedItem]]:
        request = self.request
        async with self.ports.database.unit_of_work(request.tenant) as uow:
            plans, refused = await plan_enrolment(
                uow,
                chunk.users,
                request.enrollment,
                default=request.currency,
                memory=self.memory,
            )
        return counts_of(plans, counted=chunk.counted), refused

    async def _write(self, chunk: _Chunk) -> tuple[Counts, list[RefusedItem]]:
        request, now = self.request, self.ports.clock.now()
        async with self.ports.database.unit_of_work(request.tenant) as uow:
            enrolled = await enroll_users(
                uow, chunk.users, request.enrollment, default=request.currency, now=now
            )
            counts = counts_of(enrolled.plans, counted=chunk.counted)
            if counts.changes:
                lines = [chunk.users[0].line, chunk.users[-1].line]
                await record_audit(
                    uow,
                    system_principal(request.tenant, self.ports.actor),
                    action="users.import",
                    now=now,
                    details={"file": request.source, "lines": lines, **asdict(counts)},
                )
        return counts, enrolled.refused
