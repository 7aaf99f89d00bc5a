"""A run as it is seen from outside: by whoever has its token, and by operators."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from steelyard.core.errors import InvalidInput
from steelyard.jobs.model import State

RUN_ID_MAX: Final = 2**63 - 1
EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)


class Status(StrEnum):
    """Where a run stands, in the words that clients of the reference know."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    """Between two attempts too."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    """Cancelled, expired and superseded ones too; the state says which."""


def status_of(state: State) -> Status:
    """Return the status of a state."""
    match state:
        case State.PENDING:
            return Status.PENDING
        case State.RUNNING | State.RETRYING:
            return Status.RUNNING
        case State.COMPLETED:
            return Status.COMPLETED
    return Status.FAILED


def read_states(text: str | None) -> tuple[State, ...]:
    """Return the states that a list joined by commas names; none: all.

    Raises:
        InvalidInput: One is none.
    """
    if text is None:
        return ()
    known = {str(state): state for state in State}
    wanted = dict.fromkeys(part.strip() for part in text.split(","))
    if not wanted.keys() <= known.keys():
        raise InvalidInput(field="state", problem=f"a state is one of {', '.join(known)}")
    return tuple(known[name] for name in wanted)


@dataclass(frozen=True, slots=True)
class PublicRun:
    """What a public token shows of a run. `result` and `error` are JSON as it is stored."""

    id: int
    state: State
    progress: int
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class SeenRun:
    """What operators see of a run. `result`, `error` and `arguments` are JSON as it is stored."""

    id: int
    kind: str
    subject: str
    priority: int
    state: State
    attempts: int
    progress: int
    result: str | None
    error: str | None
    error_category: str | None
    arguments: str | None
    requested_by: str | None
    schedule: str | None
    planned_for: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def is_error_current(self) -> bool:
        """Whether the error is why it stands where it does, and not that of an attempt it got over."""
        return self.error is not None and self.state is not State.COMPLETED


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a page of runs begins: before this one. Runs are listed by when they were asked for, the newest first."""

    created_at: datetime = LATEST
    run: int = RUN_ID_MAX


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are listed. An empty tuple or None: all.

    Args:
        kinds: Of these kinds.
        states: That stand at one of these.
        subject: About this alone.
        since, until: Asked for from this moment on, and before this one.
        error_code: Whose newest failed attempt ended with this code.
    """

    kinds: tuple[str, ...] = ()
    states: tuple[State, ...] = ()
    subject: str | None = None
    since: datetime = EARLIEST
    until: datetime = LATEST
    error_code: str | None = None


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Runs of one kind: those that have not ended, and those of the last day that have.

    `waiting`: due and not begun; `active`: being worked on; `delayed`: due later. Durations are from the begin of the
    first attempt to the end, of completed runs; None where there is none.
    """

    kind: str
    waiting: int = 0
    active: int = 0
    delayed: int = 0
    completed: int = 0
    failed: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
