"""What the routes of runs and jobs answer."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from pydantic import BaseModel, ConfigDict

from steelyard.core.clock import format_utc
from steelyard.jobs.list_runs import RunPage
from steelyard.jobs.model import State
from steelyard.jobs.seen_run import KindFigures, PublicRun, SeenRun, status_of


class StatusQuery(Struct, forbid_unknown_fields=True, kw_only=True):
    """What `GET /api/jobs/status` takes. The token may come as `Authorization: Bearer` instead."""

    id: Annotated[str, Meta(max_length=200)]
    token: str | None = None
    public_access_token: str | None = msgspec.field(name="publicAccessToken", default=None)


class RunStatus(Struct):
    """Where a run stands. `status`: PENDING, RUNNING, COMPLETED or FAILED; `state` is finer."""

    id: str
    status: str
    state: str
    progress: int
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


def tell_status(run: PublicRun) -> RunStatus:
    """Return what a public token shows."""
    has_error = run.error is not None and run.state is not State.COMPLETED
    return RunStatus(
        str(run.id),
        status_of(run.state),
        run.state,
        run.progress,
        UNSET if run.result is None else Raw(run.result.encode()),
        Raw(str(run.error).encode()) if has_error else UNSET,
    )


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class ToldRun(_Told):
    """A run as operators see it. `error` is that of the newest attempt that failed."""

    id: str
    kind: str
    subject: str
    state: str
    status: str
    priority: int
    attempts: int
    progress: int
    arguments: Any
    result: Any
    error: Any
    error_category: str | None
    requested_by: str | None
    schedule: str | None
    planned_for: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class ToldCancel(_Told):
    """What became of asking for a run's end: `cancelled`, `asked` (its worker ends it) or `ended` before."""

    id: str
    outcome: str
    state: str


class ToldRequeue(_Told):
    """A dead letter that is tried again, under the same id."""

    id: str
    state: str


class ToldFigures(_Told):
    """Runs of one kind. `completed` and `failed`: of those asked for in the last day. Durations in seconds."""

    kind: str
    waiting: int
    active: int
    delayed: int
    completed: int
    failed: int
    p50_s: float | None
    p95_s: float | None


class ToldStatistics(_Told):
    """Figures by kind. Numbers are counted up to `counted_max`."""

    since: str
    counted_max: int
    data: list[ToldFigures]


class ToldRuns(_Told):
    """Runs, newest first; `next_cursor` leads to older ones where there are any."""

    data: list[ToldRun]
    next_cursor: str | None
    has_more: bool


def tell_run(run: SeenRun) -> ToldRun:
    """Return what is told of a run."""
    return ToldRun(
        id=str(run.id),
        kind=run.kind,
        subject=run.subject,
        state=run.state,
        status=status_of(run.state),
        priority=run.priority,
        attempts=run.attempts,
        progress=run.progress,
        arguments=_read(run.arguments),
        result=_read(run.result),
        error=_read(run.error),
        error_category=run.error_category,
        requested_by=run.requested_by,
        schedule=run.schedule,
        planned_for=_time(run.planned_for),
        created_at=format_utc(run.created_at),
        started_at=_time(run.started_at),
        finished_at=_time(run.finished_at),
    )


def tell_page(page: RunPage) -> ToldRuns:
    """Return what is told of a page."""
    return ToldRuns(
        data=[tell_run(run) for run in page.runs],
        next_cursor=page.next_cursor,
        has_more=page.next_cursor is not None,
    )


def tell_figures(found: Sequence[KindFigures]) -> list[ToldFigures]:
    """Return what is told of figures."""
    return [
        ToldFigures(
            kind=one.kind,
            waiting=one.waiting,
            active=one.active,
            delayed=one.delayed,
            completed=one.completed,
            failed=one.failed,
            p50_s=_rounded(one.p50_s),
            p95_s=_rounded(one.p95_s),
        )
        for one in found
    ]


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
