"""Kinds of jobs, what is asked for, and what a handler is given."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from steelyard.core.clock import Clock
from steelyard.core.ids import TenantId
from steelyard.jobs.errors import UnknownKind
from steelyard.runtime.database import Database, UnitOfWork

ATTEMPTS_MAX: Final = 3
DELAY_S: Final = 5.0


class State(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self not in (State.PENDING, State.RUNNING, State.RETRYING)


@dataclass(frozen=True, slots=True)
class Kind:
    """What jobs of one name share.

    Args:
        name: 1 to 40 characters; shown with each run.
        priority: Larger is sooner, 0 to 1000.
        attempts_max: Attempts in all before a job that keeps failing is a dead letter.
        delay_s: Before the second attempt.
        timeout_s: Longest one attempt may take; None: as long as it gives signs of life.
        is_exponential: Each further wait is twice the one before; else all are equal.
        aliases: Other names it is asked for by, such as those of the reference.
    """

    name: str
    priority: int = 0
    attempts_max: int = ATTEMPTS_MAX
    delay_s: float = DELAY_S
    timeout_s: float | None = None
    is_exponential: bool = True
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert 1 <= len(self.name) <= 40, "the name of a kind has 1 to 40 characters"
        assert 0 <= self.priority <= 1000, "a priority is 0 to 1000"
        assert 1 <= self.attempts_max <= 100, "a kind has 1 to 100 attempts"


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One thing to be done.

    Args:
        subject: What it is about, 1 to 128 characters. Requests with the same subject and arguments share a run that
            nobody has begun.
        arguments: JSON values for the handler; no secrets, they are shown with the run.
        planned_for: The tick of the schedule that asks.
        schedule: Its name.
        wants_token: Whether a public token is made that may read the run.
        requested_by: Who asks, as shown with the run.
        priority: Instead of the kind's; larger is sooner.
        not_before: Earliest begin; at once if absent.
    """

    subject: str
    arguments: Mapping[str, object] | None = None
    planned_for: datetime | None = None
    schedule: str | None = None
    wants_token: bool = False
    requested_by: str | None = None
    priority: int | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class RequestedRun:
    """The run that will serve a request. `token` reads it without signing in; it is told only here."""

    run: int
    token: str | None
    is_new: bool
    """False where an equal request was waiting already: they share its run."""


class Hold(Protocol):
    """A worker's hold on a job: it ends when another worker has the job."""

    async def check(self, uow: UnitOfWork) -> None:
        """As `RunContext.check`."""
        ...

    async def complete(self, uow: UnitOfWork, result: Mapping[str, object]) -> None:
        """As `RunContext.complete`."""
        ...

    async def progress(self, percent: int) -> None:
        """As `RunContext.progress`."""
        ...


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a handler is given."""

    tenant: TenantId
    run: int
    subject: str
    arguments: Mapping[str, object]
    attempt: int
    """1 for the first."""
    clock: Clock
    database: Database
    hold: Hold = field(repr=False)
    planned_for: datetime | None = None
    schedule: str | None = None

    async def progress(self, percent: int) -> None:
        """Show how far it is, 0 to 100.

        Raises:
            LeaseLost: Another worker has the job by now; stop.
        """
        await self.hold.progress(percent)

    async def check(self, uow: UnitOfWork) -> None:
        """Hold the job until `uow` ends: what is written in it is written by the only worker that may.

        Call it first in each unit of work that writes. A worker that was paused, and whose job was given to another
        meanwhile, cannot write.

        Raises:
            LeaseLost: Another worker has the job by now, or it was cancelled; nothing may be written.
        """
        await self.hold.check(uow)

    async def complete(self, uow: UnitOfWork, result: Mapping[str, object]) -> None:
        """End the run in the unit of work of its effect: both are there, or neither, whenever the worker dies.

        What the handler returns afterwards is not used.

        Raises:
            LeaseLost: As `check`.
        """
        await self.hold.complete(uow, result)


Handler = Callable[[RunContext], Awaitable[Mapping[str, object]]]
"""Does the work and returns the run's result: JSON values, no secrets. It may be run more than once: at least once is
what is promised, and only `RunContext.check` and `complete` keep a second effect out."""


@dataclass(frozen=True, slots=True)
class HandledKind:
    """A kind and what does its work."""

    kind: Kind
    handler: Handler


class Kinds:
    """The kinds this process knows: those whose handlers it has."""

    def __init__(self, handled: Iterable[HandledKind] = ()) -> None:
        self._handled: dict[str, HandledKind] = {}
        self._names: dict[str, str] = {}
        for one in handled:
            for name in (one.kind.name, *one.kind.aliases):
                assert name not in self._names, f"two kinds of jobs are named {name}"
                self._names[name] = one.kind.name
            self._handled[one.kind.name] = one

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all kinds, without aliases."""
        return tuple(self._handled)

    def __iter__(self) -> Iterator[HandledKind]:
        return iter(self._handled.values())

    def get(self, name: str) -> HandledKind:
        """Return a kind by its name or an alias.

        Raises:
            UnknownKind: There is none.
        """
        found = self._names.get(name)
        if found is None:
            raise UnknownKind(name=name, known=self.names)
        return self._handled[found]
