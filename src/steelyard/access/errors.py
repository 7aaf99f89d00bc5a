"""What can go wrong in asking who asks."""

from collections.abc import Mapping
from enum import StrEnum

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import UserId


class Refusal(StrEnum):
    """Why a caller is not who it says; for logs and counters."""

    MISSING = "missing"
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    SIGNATURE = "signature"
    CLAIMS = "claims"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    REVOKED = "revoked"
    TENANT = "tenant"
    KEY = "key"


_SENTENCES: Mapping[Refusal, str] = {
    Refusal.MISSING: "send `Authorization: Bearer` with a token or an API key",
    Refusal.MALFORMED: "the credential is neither a signed token nor an API key",
    Refusal.TOO_LARGE: "the credential is longer than 4096 characters",
    Refusal.SIGNATURE: "the token's signature does not hold",
    Refusal.CLAIMS: "a claim of the token is missing or not acceptable",
    Refusal.EXPIRED: "the token has expired",
    Refusal.NOT_YET_VALID: "the token is not valid yet",
    Refusal.REVOKED: "the token has been revoked",
    Refusal.TENANT: "the token's tenant is not served here",
    Refusal.KEY: "the API key is not valid",
}


class Unauthenticated(SteelyardError):
    """The caller is not known: no, bad, expired or revoked token or key."""

    code = "unauthenticated"

    def __init__(self, reason: Refusal = Refusal.MISSING) -> None:
        self.reason = reason
        super().__init__(f"{_SENTENCES[reason]}; nothing was done")

    def fields(self) -> Mapping[str, object]:
        return {"reason": self.reason.value}


class Forbidden(SteelyardError):
    """The caller is known and its role may not do this."""

    code = "forbidden"

    def __init__(self, *, role: str, permission: str) -> None:
        self.role, self.permission = role, permission
        super().__init__(f"the role {role} has no permission {permission}; nothing was done")

    def fields(self) -> Mapping[str, object]:
        return {"role": self.role, "permission": self.permission}


class UserExists(SteelyardError):
    """The id is taken by a user with other facts."""

    code = "user_exists"

    def __init__(self, *, user: UserId) -> None:
        self.user = user
        super().__init__(f"user {user!r} exists already with other facts; nothing was changed")


class UnsafeDatabase(SteelyardError):
    """The database would not hold the wall between tenants; the process must not start."""

    code = "unsafe_database"

    def __init__(self, *, found: str, remedy: str) -> None:
        self.found, self.remedy = found, remedy
        super().__init__(f"{found}; refusing to start. {remedy}")


class UnsafeSettings(SteelyardError):
    """The settings for tokens do not say safely whom to believe; the process must not start."""

    code = "unsafe_settings"

    def __init__(self, *, setting: str, problem: str) -> None:
        self.setting, self.problem = setting, problem
        super().__init__(f"{setting}: {problem}; refusing to start")


class KeySetUnavailable(SteelyardError):
    """The issuer's key set could not be read or holds no usable key."""

    code = "key_set_unavailable"

    def __init__(self, *, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"the key set at {source} could not be used: {problem}")
