"""The root of every error Steelyard raises on purpose.

An error is a type with typed fields, a stable `code`, and a full sentence that says what
happened, with which values, and what state things are in now. One table (`runtime/problems.py`)
maps codes to HTTP; the job engine reads `retry`; nobody parses messages.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether the same request can succeed later."""

    NEVER = "never"
    LATER = "later"
    AFTER_RENEWAL = "after_renewal"


class SteelyardError(Exception):
    """Base of all errors with a stable code."""

    code: ClassVar[str] = "internal_error"
    retry: ClassVar[Retry] = Retry.NEVER

    def fields(self) -> Mapping[str, object]:
        """Facts for machines, added to the problem document: JSON values only, no secrets."""
        return {}


class InvalidInput(SteelyardError):
    """A value from outside is not acceptable; nothing was done."""

    code = "invalid_input"

    def __init__(self, *, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}; nothing was changed")

    def fields(self) -> Mapping[str, object]:
        return {"param": self.field}


class NotFound(SteelyardError):
    """There is no such thing in this tenant, or it is not the caller's to see."""

    code = "not_found"

    def __init__(self, *, kind: str, identifier: str) -> None:
        self.kind, self.identifier = kind, identifier
        super().__init__(f"there is no {kind} {identifier!r} here")


class Overloaded(SteelyardError):
    """A bounded queue is full; the request was not taken."""

    code = "overloaded"
    retry = Retry.LATER

    def __init__(self, *, queue: str, limit: int) -> None:
        self.queue, self.limit = queue, limit
        super().__init__(
            f"{queue} already has {limit} requests waiting; this one was not taken, try again shortly"
        )


class DatabaseUnavailable(SteelyardError):
    """The database did not answer in time.

    Whether a write that was already sent took effect is unknown: the same request with the same
    key is safe and gives the answer.
    """

    code = "database_unavailable"
    retry = Retry.LATER

    def __init__(self, *, doing: str) -> None:
        self.doing = doing
        super().__init__(
            f"the database did not answer while {doing}; repeating the request with the same key is safe"
        )
