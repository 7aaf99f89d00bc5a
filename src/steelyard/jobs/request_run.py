"""Asking for something to be done: the run and its job commit with what asks for them, or not at all."""

import json
from datetime import datetime
from hashlib import sha256

from steelyard.core.errors import InvalidInput
from steelyard.core.ids import IdSource
from steelyard.jobs.model import Kind, RequestedRun, RunRequest
from steelyard.jobs.store import queue
from steelyard.runtime.database import UnitOfWork

SUBJECT_LENGTH_MAX = 128
ARGUMENTS_LENGTH_MAX = 65_536


def hash_token(token: str) -> bytes:
    """Return what is stored of a public token."""
    return sha256(token.encode()).digest()


async def request_run(
    uow: UnitOfWork,
    kind: Kind,
    wanted: RunRequest,
    *,
    now: datetime,
    ids: IdSource | None = None,
) -> RequestedRun:
    """Queue a run of a kind, or share the run of an equal request that nobody has begun yet.

    Equal: same tenant, kind, subject and arguments. The shared run is due at the earlier moment, at the higher
    priority, and each request has its own token. Only for units of work that move no money.

    Args:
        uow: Open unit of work; its commit is what queues the job.
        kind: From the registry.
        wanted: See `RunRequest`.
        now: UTC.
        ids: Makes the token; needed where one is wanted.
    Raises:
        InvalidInput: The subject's length or the arguments are not acceptable.
    """
    if not 1 <= len(wanted.subject) <= SUBJECT_LENGTH_MAX or not wanted.subject.isprintable():
        raise InvalidInput(
            field="subject", problem=f"it must have 1 to {SUBJECT_LENGTH_MAX} printable characters"
        )
    arguments = _write_arguments(wanted)
    token, token_hash = None, None
    if wanted.wants_token:
        assert ids is not None, "a token needs a source of ids"
        token = ids.new_id()
        token_hash = hash_token(token)
    run, is_new = await queue.request_run(
        uow, kind, wanted, arguments=arguments, token_hash=token_hash, now=now
    )
    return RequestedRun(run, token, is_new)


def _write_arguments(wanted: RunRequest) -> str:
    try:
        text = json.dumps(dict(wanted.arguments or {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(field="arguments", problem="they must be JSON values") from error
    if len(text) > ARGUMENTS_LENGTH_MAX or "\\u0000" in text:
        raise InvalidInput(
            field="arguments",
            problem=f"they must have at most {ARGUMENTS_LENGTH_MAX} characters as JSON, none of them NUL",
        )
    return text
