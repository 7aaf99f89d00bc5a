"""How a provider fails, told apart by what must happen next. No message holds a secret or an account number."""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

from steelyard.core.errors import Retry, SteelyardError


class ErrorScope(StrEnum):
    """What an error is about."""

    ACCOUNT = "account"
    """One account; the others can be asked."""
    CONNECTION = "connection"
    """One user's link; other users' can be asked."""
    PROVIDER = "provider"
    """Everybody: our key, the provider itself, or the way to it."""


class ProviderError(SteelyardError):
    """A provider gave no answer that can be used; no balance was changed.

    Attributes:
        provider: Name in the manifest.
        reason: Stable word for counting and showing, such as `deadline` or `status_503`; never a payload.
        scope: What it is about.
        retry_after_s: Seconds from the answer on that it asked us to wait, zero or more; None where it did not say.
        retry: Whether the same request can succeed later, or after a person renewed something.
        tries_max: Tries of the same request in all before it is given up; None: as many as the policy of
            the caller allows.
        counts_as_outage: Whether it tells that the provider is unwell; a circuit breaker counts these.
    """

    code = "provider_unclassified"
    retry = Retry.LATER
    tries_max: ClassVar[int | None] = None
    counts_as_outage: ClassVar[bool] = True
    said: ClassVar[str] = "failed in a way that is not known"

    def __init__(
        self,
        *,
        provider: str,
        reason: str,
        scope: ErrorScope = ErrorScope.PROVIDER,
        retry_after_s: float | None = None,
    ) -> None:
        self.provider, self.reason, self.scope = provider, reason, scope
        self.retry_after_s = retry_after_s
        super().__init__(f"{provider} {self.said} ({reason}); no balance was changed")

    def fields(self) -> Mapping[str, object]:
        told = {"provider": self.provider, "reason": self.reason, "scope": self.scope.value}
        return told if self.retry_after_s is None else {**told, "retry_after_s": self.retry_after_s}


class ProviderUnclassified(ProviderError):
    """It failed in a way that is not known: tried twice more, then shown as it is."""

    tries_max = 3


class ProviderTransient(ProviderError):
    """It could not be reached or did not answer in time, or said that it is not well just now."""

    code = "provider_transient"
    said = "did not answer"


class ProviderRateLimited(ProviderError):
    """It asked us to wait: `retry_after_s`, or as long as the policy of the caller says."""

    code = "provider_rate_limited"
    counts_as_outage = False
    said = "asked to wait"


class ProviderReauth(ProviderError):
    """The credential is not accepted; a person must renew it. Asking again with the same one does harm."""

    code = "provider_reauth"
    retry = Retry.AFTER_RENEWAL
    tries_max = 1
    counts_as_outage = False
    said = "did not accept the credential"


class ProviderRevoked(ProviderError):
    """The credential is known and may not do this, or the permission was taken back."""

    code = "provider_revoked"
    retry = Retry.AFTER_RENEWAL
    tries_max = 1
    counts_as_outage = False
    said = "does not permit this"


class ProviderRefusedRequest(ProviderError):
    """It says that our request is wrong; the same one will be refused again."""

    code = "provider_invalid_request"
    retry = Retry.NEVER
    tries_max = 1
    counts_as_outage = False
    said = "refused the request as wrong"


class ProviderNotFound(ProviderError):
    """It does not know the account, or the address asked is not one of its own."""

    code = "provider_not_found"
    retry = Retry.NEVER
    tries_max = 1
    counts_as_outage = False
    said = "does not know what was asked for"


class ProviderMalformed(ProviderError):
    """Its answer cannot be read as what it promises; nothing of it was believed."""

    code = "provider_malformed"
    tries_max = 3
    said = "gave an answer that cannot be read"
