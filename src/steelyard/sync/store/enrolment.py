"""All SQL of targets that come and go with what is said of their users."""

import json
from collections.abc import Sequence
from datetime import datetime

from steelyard.core.ids import UserId
from steelyard.runtime.database import UnitOfWork

_LOCK = """
    SELECT t.subject FROM steelyard.sync_target t WHERE t.tenant_id = $1 AND t.kind = $2 AND t.subject = ANY ($3)
     ORDER BY t.subject FOR UPDATE
"""


async def lock_targets(uow: UnitOfWork, kind: str, users: Sequence[UserId]) -> None:
    """Lock the targets there are, in the order workers do, until `uow` ends."""
    await uow.fetch(_LOCK, uow.tenant, kind, list(users))


async def drop_targets(
    uow: UnitOfWork,
    kind: str,
    provider: str,
    users: Sequence[UserId],
    *,
    reason: dict[str, str],
    now: datetime,
) -> int:
    """Forget targets of users who are not to be synced, leased or not; their runs end cancelled. Returns how many."""
    return int(
        await uow.fetchval(
            "SELECT steelyard.drop_targets($1, $2, $3, $4, $5, $6)",
            now,
            uow.tenant,
            kind,
            provider,
            list(users),
            json.dumps(reason),
        )
    )
