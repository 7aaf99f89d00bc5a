"""The audit record: who did what to whom, with what outcome; appended in the unit of work of the act itself."""

from collections.abc import Mapping
from datetime import datetime

from steelyard.access import store
from steelyard.access.model import AuditLine, Principal
from steelyard.runtime.database import UnitOfWork

DONE = "done"


async def record_audit(
    uow: UnitOfWork,
    principal: Principal,
    *,
    action: str,
    now: datetime,
    target: str | None = None,
    outcome: str = DONE,
    request_id: str | None = None,
    details: Mapping[str, object] | None = None,
) -> int:
    """Append a line; it commits or vanishes with the act.

    No role of the running product can change or remove it afterwards.

    Args:
        uow: Open unit of work of the act; its tenant must be the principal's.
        principal: Who acts.
        action: A dotted name, `user.create`.
        now: UTC.
        target: What was acted on, `user:42`.
        outcome: `done`, or a short word for another end.
        request_id: Finds the request in the logs.
        details: JSON values; no secrets and no personal data.
    Returns:
        The line's id.
    """
    assert principal.tenant == uow.tenant, "an act is recorded in the tenant it was done in"
    line = AuditLine(
        0,
        now,
        principal.subject,
        principal.role.value,
        action,
        target,
        outcome,
        request_id,
        details,
    )
    return await store.insert_audit(uow, line)


async def list_audit(uow: UnitOfWork, *, before: int | None, limit: int) -> list[AuditLine]:
    """Return the tenant's lines, newest first, from before the given id."""
    return await store.list_audit(uow, before=before, limit=limit)
