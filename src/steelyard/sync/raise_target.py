"""Asking for a sync: a login goes before everything, a user is never queued twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from steelyard.core.ids import UserId
from steelyard.mirror.store import load_standings
from steelyard.runtime.database import UnitOfWork
from steelyard.sync import store
from steelyard.sync.model import BALANCES, Priority, Raised, Reason
from steelyard.sync.rules import COST_MAX, refusal_of


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Who is to be synced, where, and how soon. `token_hash`: of a public token that may read the run.

    `waited_until`: when who asks gives up waiting; its priority is then worth no more than other requests'.
    """

    user: UserId
    provider: str
    priority: Priority = Priority.MANUAL
    kind: str = BALANCES
    token_hash: bytes | None = None
    waited_until: datetime | None = None


async def raise_users(
    uow: UnitOfWork,
    requests: Sequence[SyncRequest],
    *,
    now: datetime,
    passes_locked: bool = False,
) -> list[Raised]:
    """Make targets due now, in order; requests of one call share source, kind and priority, no user twice.

    A target that is queued already is raised, never queued again: the requests share its run. One whose sync is in
    flight runs once more afterwards, because what is being read may be older than the request. Users who may not be
    synced (unknown, inactive, WALLET, without accounts, paused alone or with the whole source) are refused with a reason and nothing is written.

    Locks the targets until `uow` ends. With `passes_locked`, those that somebody else has locked are not waited for.
    """
    if not requests:
        return []
    first = requests[0]
    standings = await load_standings(uow, [r.user for r in requests], first.provider)
    refusals = {r.user: refusal_of(standings.get(r.user)) for r in requests}
    wanted = [
        (r.user, min(standings[r.user][2], COST_MAX), r.token_hash, r.waited_until)
        for r in sorted(requests, key=lambda request: request.user)
        if refusals[r.user] is None
    ]
    raised = await store.raise_targets(
        uow,
        first.kind,
        first.provider,
        wanted,
        priority=first.priority,
        now=now,
        passes_locked=passes_locked,
    )
    return [_told(refusals[r.user], raised.get(r.user)) for r in requests]


def _told(refusal: Reason | None, raised: tuple[int | None, bool, bool] | None) -> Raised:
    if refusal is not None:
        return Raised(None, reason=refusal)
    if raised is None:
        return Raised(None, is_locked=True)
    run, is_new, is_paused = raised
    return Raised(None, reason=Reason.PAUSED) if is_paused else Raised(run, is_new)


async def queue_sync(uow: UnitOfWork, user: UserId, provider: str, *, now: datetime) -> bool:
    """Ask for a sync in the background. Returns whether it was newly queued."""
    [raised] = await raise_users(uow, [SyncRequest(user, provider)], now=now)
    return raised.is_new
