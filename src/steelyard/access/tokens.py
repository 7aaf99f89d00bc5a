"""Verifies and issues tokens: one algorithm from the settings, keys from the settings, time from a clock.

A token's header decides nothing but which of our own keys to try: `alg` must be the one configured, and
`jku`, `x5u`, `x5c` and `jwk` are never looked at.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steelyard.access.errors import Refusal, Unauthenticated, UnsafeSettings
from steelyard.access.key_sets import Algorithm, KeySet
from steelyard.access.model import RESERVED_SUBJECTS, Principal, Role
from steelyard.core.clock import Clock
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId, parse_tenant_id, parse_user_id

TOKEN_BYTES_MAX: Final = 4_096
LEEWAY_MAX: Final = timedelta(seconds=5)

SigningKey = bytes | EllipticCurvePrivateKey | Ed25519PrivateKey

_JWS = jwt.PyJWS()
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be to be believed."""

    algorithm: Algorithm = "HS256"
    issuer: str | None = None
    audience: str | None = None
    tenant_claim: str = "tenant"
    role_claim: str = "role"
    leeway: timedelta = LEEWAY_MAX

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.leeway <= LEEWAY_MAX:
            raise UnsafeSettings(setting="leeway", problem="it must be 0 to 5 s")
        names = {self.tenant_claim, self.role_claim}
        if len(names) < 2 or names & _REGISTERED or "" in names:
            raise UnsafeSettings(
                setting="STEELYARD_JWT_TENANT_CLAIM, STEELYARD_JWT_ROLE_CLAIM",
                problem="they must be two names of their own, none of them a registered claim",
            )


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose signature and claims hold. Whether it was revoked is another question."""

    principal: Principal
    issued_at: datetime | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class TokenVerifier:
    """Believes tokens of one issuer."""

    rules: TokenRules
    keys: KeySet
    clock: Clock

    async def verify(self, token: str) -> VerifiedToken:
        """Return what a token says, if it may be believed.

        Raises:
            Unauthenticated: Whatever is wrong with it; never another error, whatever the text.
        """
        claims = await self._read_claims(token)
        expires_at = self._check_times(claims)
        self._check_addressee(claims)
        principal = self._read_principal(claims)
        return VerifiedToken(principal, _moment(claims, "iat"), expires_at)

    async def _read_claims(self, token: str) -> Mapping[str, object]:
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated(Refusal.TOO_LARGE)
        try:
            kid = _JWS.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated(Refusal.MALFORMED) from error
        for key in await self.keys.list_keys(kid):
            try:
                payload = _JWS.decode(token, key, algorithms=[self.rules.algorithm])
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
                raise Unauthenticated(Refusal.SIGNATURE) from error
            return _read_object(payload)
        raise Unauthenticated(Refusal.SIGNATURE)

    def _check_times(self, claims: Mapping[str, object]) -> datetime:
        expires_at, not_before, issued_at = (
            _moment(claims, name) for name in ("exp", "nbf", "iat")
        )
        if expires_at is None:
            raise Unauthenticated(Refusal.CLAIMS)
        now, leeway = self.clock.now(), self.rules.leeway
        if now >= expires_at + leeway:
            raise Unauthenticated(Refusal.EXPIRED)
        if any(start is not None and now + leeway < start for start in (not_before, issued_at)):
            raise Unauthenticated(Refusal.NOT_YET_VALID)
        return expires_at

    def _check_addressee(self, claims: Mapping[str, object]) -> None:
        rules, audience = self.rules, claims.get("aud")
        if rules.issuer is not None and claims.get("iss") != rules.issuer:
            raise Unauthenticated(Refusal.CLAIMS)
        named = audience if isinstance(audience, list) else [audience]
        if rules.audience is not None and rules.audience not in named:
            raise Unauthenticated(Refusal.CLAIMS)

    def _read_principal(self, claims: Mapping[str, object]) -> Principal:
        subject = claims.get("sub")
        if isinstance(subject, int) and not isinstance(subject, bool) and abs(subject) < 2**63:
            subject = str(subject)  # ids are strings at every edge, integers accepted
        tenant = claims.get(self.rules.tenant_claim, DEFAULT_TENANT)
        role = claims.get(self.rules.role_claim, Role.USER.value)
        if not (isinstance(subject, str) and isinstance(tenant, str) and isinstance(role, str)):
            raise Unauthenticated(Refusal.CLAIMS)
        if subject.startswith(RESERVED_SUBJECTS):
            raise Unauthenticated(Refusal.CLAIMS)
        try:
            user = parse_user_id(subject)
            return Principal(parse_tenant_id(tenant), subject, Role(role), user)
        except (InvalidInput, ValueError) as error:
            raise Unauthenticated(Refusal.CLAIMS) from error


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """Whom a new token is for and how long it lasts."""

    tenant: TenantId
    user: UserId
    role: Role
    lifetime: timedelta


def issue_token(
    order: TokenOrder, *, rules: TokenRules, key: SigningKey, now: datetime, kid: str | None = None
) -> str:
    """Return a signed token that a verifier with the same rules and key believes from `now` on.

    Raises:
        InvalidInput: The lifetime is not at least one second, or the user id is reserved.
    """
    if order.lifetime < timedelta(seconds=1):
        raise InvalidInput(field="lifetime", problem="a token lasts at least one second")
    if order.user.startswith(RESERVED_SUBJECTS):
        raise InvalidInput(
            field="user", problem="this beginning is kept for API keys and the product itself"
        )
    claims: dict[str, object] = {
        "sub": order.user,
        "iat": now.timestamp(),
        "exp": math.ceil((now + order.lifetime).timestamp()),
        rules.tenant_claim: order.tenant,
        rules.role_claim: order.role.value,
    }
    if rules.issuer is not None:
        claims["iss"] = rules.issuer
    if rules.audience is not None:
        claims["aud"] = rules.audience
    headers = {} if kid is None else {"kid": kid}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _JWS.encode(payload, key, algorithm=rules.algorithm, headers=headers)


def check_names_issuer_and_audience(rules: TokenRules) -> None:
    """Refuse rules that would take tokens meant for somebody else; `serve` asks this at start.

    Raises:
        UnsafeSettings: `iss` or `aud` is not configured.
    """
    for setting, value in (("JWT_ISSUER", rules.issuer), ("JWT_AUDIENCE", rules.audience)):
        if not value:
            raise UnsafeSettings(
                setting=f"STEELYARD_{setting}",
                problem="`serve` needs it, so that tokens made for another service are refused",
            )


def _read_object(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Unauthenticated(Refusal.CLAIMS) from error
    if not isinstance(claims, dict):
        raise Unauthenticated(Refusal.CLAIMS)
    return claims


def _moment(claims: Mapping[str, object], name: str) -> datetime | None:
    seconds = claims.get(name)
    if seconds is None:
        return None
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 <= seconds <= _LATEST
    ):
        raise Unauthenticated(Refusal.CLAIMS)
    return datetime.fromtimestamp(seconds, UTC)
