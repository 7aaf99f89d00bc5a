"""Showing one run: to whoever has its public token, to its user, and to operators."""

import re
from typing import Final

from steelyard.access.model import Principal, Role
from steelyard.access.roles import Permission, is_allowed
from steelyard.core.errors import NotFound
from steelyard.jobs.request_run import hash_token
from steelyard.jobs.seen_run import PublicRun, SeenRun
from steelyard.jobs.store import runs
from steelyard.runtime.database import Database, UnitOfWork

KINDS_OF_USERS: Final = frozenset({"update-balances"})
"""Kinds whose subject is a user: that user may follow them without a public token."""

_ID = re.compile(r"[1-9][0-9]{0,17}")


def parse_run_id(text: str) -> int:
    """Return `text` as a run's id.

    Raises:
        NotFound: It is none; whether a run exists is never told apart.
    """
    if not _ID.fullmatch(text):
        raise NotFound(kind="run", identifier=text[:40])
    return int(text)


async def read_by_token(database: Database, run: str, token: str) -> PublicRun:
    """Return a run, of whatever tenant, to somebody who has one of its public tokens.

    Raises:
        NotFound: No such run, or not with this token, or its tenant is suspended; which, is not told.
        DatabaseUnavailable: The database did not answer.
    """
    found = await runs.find_public(database, parse_run_id(run), hash_token(token))
    if found is None:
        raise NotFound(kind="run", identifier=run[:40])
    return found


async def read_as(uow: UnitOfWork, principal: Principal, run: str) -> PublicRun:
    """Return where a run of the tenant stands, to somebody who signed in.

    Raises:
        NotFound: There is none, or it is about somebody else.
    """
    found = await get_run(uow, run)
    is_own = found.kind in KINDS_OF_USERS and found.subject == principal.user
    if not is_allowed(principal, Permission.RUNS_READ) and not (
        principal.role is Role.USER and is_own
    ):
        raise NotFound(kind="run", identifier=run[:40])
    return PublicRun(found.id, found.state, found.progress, found.result, found.error)


async def get_run(uow: UnitOfWork, run: str) -> SeenRun:
    """Return a run of the tenant with all that is known of it.

    Raises:
        NotFound: There is none.
    """
    found = await runs.find_run(uow, parse_run_id(run))
    if found is None:
        raise NotFound(kind="run", identifier=run[:40])
    return found
