"""Builds the authenticator a process runs with from its settings."""

from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import UnsafeSettings
from steelyard.access.fetch_key_set import key_set_source
from steelyard.access.key_sets import FixedKeys, KeySet, PublishedKeys, read_public_keys
from steelyard.access.signing_secret import check_secret, read_shared_secret
from steelyard.access.tokens import TokenRules, TokenVerifier
from steelyard.core.clock import Clock
from steelyard.runtime.database import Database
from steelyard.runtime.settings import Settings


def read_token_rules(settings: Settings) -> TokenRules:
    """Return what the settings say a token must be.

    Raises:
        UnsafeSettings: Claim names clash.
    """
    return TokenRules(
        algorithm=settings.jwt_algorithm,
        issuer=settings.jwt_issuer or None,
        audience=settings.jwt_audience or None,
        tenant_claim=settings.jwt_tenant_claim,
        role_claim=settings.jwt_role_claim,
    )


def read_signing_secret(settings: Settings, made_secret: str | None) -> bytes:
    """Return the secret of HS256: the shared file's, or the one made in the data folder.

    Raises:
        UnsafeSettings: There is none, or it is not fit.
    """
    if settings.jwt_secret_file is not None:
        return read_shared_secret(settings.jwt_secret_file)
    if made_secret is None:
        raise UnsafeSettings(
            setting="STEELYARD_JWT_SECRET_FILE", problem="HS256 needs a file with the secret here"
        )
    return check_secret(made_secret.encode(), "the data folder's token secret")


async def open_key_set(settings: Settings, clock: Clock, *, made_secret: str | None) -> KeySet:
    """Return the keys to verify with; a published set is read now, so that a wrong address is seen at once.

    Raises:
        UnsafeSettings: Secret and public keys are mixed, or there is no key.
        KeySetUnavailable: The public keys cannot be read.
    """
    file, address = settings.jwt_public_key_file, settings.jwt_jwks_url
    algorithm = settings.jwt_algorithm
    if algorithm == "HS256":
        if file is not None or address is not None:
            raise UnsafeSettings(
                setting="STEELYARD_JWT_ALGORITHM",
                problem="HS256 has no public keys; set ES256 or EdDSA, or unset the key file and the key set",
            )
        return FixedKeys((read_signing_secret(settings, made_secret),))
    if (file is None) == (address is None):
        raise UnsafeSettings(
            setting="STEELYARD_JWT_PUBLIC_KEY_FILE, STEELYARD_JWT_JWKS_URL",
            problem=f"{algorithm} needs exactly one of them",
        )
    if file is not None:
        return read_public_keys(file, algorithm)
    assert address is not None, "one of the two is set"
    published = PublishedKeys(algorithm, key_set_source(address), clock)
    await published.load()
    return published


async def open_authenticator(
    database: Database, settings: Settings, clock: Clock, *, made_secret: str | None = None
) -> Authenticator:
    """Return the authenticator of this process.

    Args:
        database: Where standings and API keys are looked up.
        settings: The JWT_ settings are read.
        clock: Decides whether a token has expired.
        made_secret: The data folder's token secret, for HS256 without a shared file.
    Raises:
        UnsafeSettings: The settings do not say safely whom to believe.
        KeySetUnavailable: The public keys cannot be read.
    """
    rules = read_token_rules(settings)
    keys = await open_key_set(settings, clock, made_secret=made_secret)
    return Authenticator.build(database, TokenVerifier(rules, keys, clock), clock)
