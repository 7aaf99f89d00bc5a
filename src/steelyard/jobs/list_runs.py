"""Listing runs, newest first, a page at a time; and dead letters."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from steelyard.access.pages import Place, read_cursor, write_cursor
from steelyard.core.errors import InvalidInput
from steelyard.jobs.seen_run import RUN_ID_MAX, RunFilter, RunPlace, SeenRun
from steelyard.jobs.store import runs
from steelyard.runtime.database import UnitOfWork

RUNS: Final = "runs"
DEAD: Final = "failed jobs"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, and the cursor that leads to older ones where there are any."""

    runs: Sequence[SeenRun]
    next_cursor: str | None


async def list_runs(
    uow: UnitOfWork, wanted: RunFilter, *, cursor: str | None, limit: int
) -> RunPage:
    """Return one page of the tenant's runs.

    A page shows what is there when it is read; runs that are asked for meanwhile come before the pages already seen, so
    none is shown twice or left out.

    Raises:
        InvalidInput: The cursor is none of this list.
    """
    before = _place_of(cursor)
    if wanted.until < before.created_at:
        before = RunPlace(wanted.until, 0)  # none has id 0: strictly before
    kinds = wanted.kinds or await runs.list_kinds(uow)
    found = await runs.list_runs(uow, wanted, kinds, before=before, limit=limit + 1)
    return _page_of(found, limit, RUNS, lambda last: f"{last.created_at.isoformat()} {last.id}")


async def list_dead_letters(
    uow: UnitOfWork, kind: str | None, *, cursor: str | None, limit: int
) -> RunPage:
    """Return one page of the tenant's dead letters, the newest run first: runs that failed and can be tried again.

    Raises:
        InvalidInput: The cursor is none of this list.
    """
    key = read_cursor(cursor, of=DEAD)
    before = RUN_ID_MAX if key is None else _number_of(key)
    kinds = [kind] if kind is not None else await runs.list_kinds(uow)
    found = await runs.list_dead(uow, kinds, before=before, limit=limit + 1)
    return _page_of(found, limit, DEAD, lambda last: str(last.id))


def _page_of(
    found: Sequence[SeenRun], limit: int, of: str, key_of: Callable[[SeenRun], str]
) -> RunPage:
    shown = found[:limit]
    has_more = len(found) > limit
    return RunPage(shown, write_cursor(Place(of, key_of(shown[-1]))) if has_more else None)


def _place_of(cursor: str | None) -> RunPlace:
    key = read_cursor(cursor, of=RUNS)
    if key is None:
        return RunPlace()
    moment, _, run = key.rpartition(" ")
    try:
        created_at = datetime.fromisoformat(moment)
        if created_at.tzinfo is None:
            raise _no_cursor()
        created_at = created_at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _no_cursor() from None
    return RunPlace(created_at, _number_of(run))


def _number_of(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > RUN_ID_MAX:
        raise _no_cursor()
    return int(text)


def _no_cursor() -> InvalidInput:
    return InvalidInput(field="cursor", problem="it is no cursor of this list")
