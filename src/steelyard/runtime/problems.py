"""The one table from error codes to HTTP, and the documents that tell them (RFC 9457).

Every refusal leaves the process as `application/problem+json` with a stable `code`. An error that is not
ours says nothing of itself: `internal_error`, a request id, and the rest is in the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from steelyard.core.errors import Retry, SteelyardError

MEDIA_TYPE = b"application/problem+json"
TYPE_PREFIX = "urn:steelyard:problem:"
RETRY_AFTER_S = 1


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code is in HTTP: its status and its title."""

    status: int
    title: str


MEANINGS: Mapping[str, Meaning] = MappingProxyType(
    {
        "invalid_input": Meaning(422, "A value is not acceptable"),
        "malformed_body": Meaning(400, "The body cannot be read"),
        "body_too_large": Meaning(413, "The body is too large"),
        "unsupported_media_type": Meaning(415, "The body is not application/json"),
        "idempotency_key_required": Meaning(400, "An Idempotency-Key is needed"),
        "idempotency_conflict": Meaning(409, "The Idempotency-Key was used for another request"),
        "unauthenticated": Meaning(401, "The caller is not known"),
        "forbidden": Meaning(403, "The role may not do this"),
        "not_found": Meaning(404, "There is no such thing here"),
        "method_not_allowed": Meaning(405, "The method is not allowed here"),
        "insufficient_funds": Meaning(402, "The account cannot cover it"),
        "account_suspended": Meaning(423, "The account is suspended"),
        "unknown_job_kind": Meaning(422, "There is no such kind of job"),
        "run_not_dead": Meaning(409, "The run is no dead letter"),
        "currency_mismatch": Meaning(422, "The currencies differ"),
        "same_account": Meaning(422, "An account cannot pay itself"),
        "balance_limit": Meaning(409, "The balance would leave its range"),
        "hold_not_open": Meaning(409, "The hold is not open"),
        "already_reversed": Meaning(409, "It was reversed before"),
        "not_reversible": Meaning(409, "It cannot be reversed"),
        "topup_already_processed": Meaning(409, "The top-up was decided before"),
        "account_exists": Meaning(409, "The account exists already"),
        "user_exists": Meaning(409, "The user exists already"),
        "capture_exceeds_hold": Meaning(422, "The capture is larger than the hold"),
        "reversal_exceeds_transaction": Meaning(422, "More than is left to reverse"),
        "requester_cannot_approve": Meaning(403, "A requester cannot decide on its own top-up"),
        "rate_limited": Meaning(429, "Too many requests"),
        "overloaded": Meaning(503, "The service is busy"),
        "database_unavailable": Meaning(503, "The database did not answer"),
        "internal_error": Meaning(500, "Something failed on our side"),
    }
)
"""Every code of docs/decisions/0001. A code that is not here is answered as `internal_error`."""

_BY_STATUS: Mapping[int, str] = {
    400: "malformed_body",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    503: "overloaded",
}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal, ready to be told. `facts` are JSON values for machines; `headers` go with it."""

    code: str
    detail: str
    retryable: bool = False
    facts: Mapping[str, object] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return MEANINGS[self.code].status

    def encode(self, request_id: str) -> bytes:
        """Return the document as JSON."""
        document: dict[str, object] = {
            **self.facts,
            "type": TYPE_PREFIX + self.code,
            "title": MEANINGS[self.code].title,
            "status": self.status,
            "detail": self.detail.encode("utf-8", "replace").decode("utf-8"),
            "code": self.code,
            "request_id": request_id,
            "retryable": self.retryable,
        }
        return msgspec.json.encode(document)


class BodyTooLarge(SteelyardError):
    """The body is larger than this route takes."""

    code = "body_too_large"

    def __init__(self, *, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        super().__init__(f"the body is larger than {limit_bytes} bytes; nothing was changed")

    def fields(self) -> Mapping[str, object]:
        return {"limit_bytes": self.limit_bytes}


class UnsupportedMediaType(SteelyardError):
    """The body is not declared as JSON."""

    code = "unsupported_media_type"

    def __init__(self, *, found: str) -> None:
        self.found = found
        super().__init__(
            f"send the body as `Content-Type: application/json`, not {found[:80]!r}; nothing was changed"
        )


class IdempotencyKeyRequired(SteelyardError):
    """A request that moves money came without a usable key."""

    code = "idempotency_key_required"

    def __init__(self) -> None:
        super().__init__(
            "send an `Idempotency-Key` header of 1 to 255 printable ASCII characters that does not begin "
            "with 'steelyard/'; repeating the request with the same key is then safe; nothing was changed"
        )


def problem_of(error: BaseException) -> Problem:
    """Return how an exception is told; one that is not ours tells nothing of itself."""
    if isinstance(error, SteelyardError) and error.code in MEANINGS:
        return _problem_of_ours(error)
    if isinstance(error, RequestValidationError):
        return _problem_of_validation(error)
    if isinstance(error, HTTPException):
        return _problem_of_http(error)
    return Problem(
        "internal_error",
        "something failed on our side; the request id finds it in the log",
    )


def _problem_of_ours(error: SteelyardError) -> Problem:
    if error.code == "internal_error":
        return Problem("internal_error", str(error))
    headers: list[tuple[bytes, bytes]] = []
    retryable = error.retry is Retry.LATER
    if retryable:
        after_s = getattr(error, "retry_after_s", RETRY_AFTER_S)
        headers.append((b"retry-after", str(max(1, int(after_s))).encode()))
    if error.code == "unauthenticated":
        headers.append((b"www-authenticate", b"Bearer"))
    return Problem(error.code, str(error), retryable, error.fields(), tuple(headers))


def _problem_of_validation(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    place = [str(part) for part in first.get("loc", ())]
    if first.get("type") == "json_invalid":
        return Problem(
            "malformed_body", "the body cannot be read: it is not JSON; nothing was changed"
        )
    param = ".".join(place[1:]) or (place[0] if place else "body")
    message = str(first.get("msg", "not acceptable"))
    detail = f"{param[:80]}: {message[:1].lower()}{message[1:200]}; nothing was changed"
    return Problem("invalid_input", detail, facts={"param": param[:80]})


def _problem_of_http(error: HTTPException) -> Problem:
    code = _BY_STATUS.get(
        error.status_code, "invalid_input" if error.status_code < 500 else "internal_error"
    )
    detail = {
        "not_found": "there is nothing at this path",
        "method_not_allowed": "this path does not take this method",
    }.get(code, MEANINGS[code].title)
    headers = tuple(
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (error.headers or {}).items()
        if name.lower() in ("allow", "retry-after")
    )
    return Problem(code, detail, MEANINGS[code].status in (429, 503), headers=headers)
