"""Settings that do not say safely whom to believe stop the start."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from steelyard.access.errors import KeySetUnavailable, UnsafeSettings
from steelyard.access.model import Role
from steelyard.access.open_authenticator import open_key_set, read_token_rules
from steelyard.access.tokens import TokenOrder, TokenVerifier, issue_token
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.runtime.settings import Settings
from steelyard.testing.clock import FrozenClock
from tests.unit.access.token_kit import NOW

MADE = "m" * 43
OLD, NEW = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def pem(*keys: Any) -> bytes:
    return b"".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for key in keys
    )


async def is_believed(settings: Settings, key: Any, made_secret: str | None = MADE) -> bool:
    clock, rules = FrozenClock(NOW), read_token_rules(settings)
    keys = await open_key_set(settings, clock, made_secret=made_secret)
    order = TokenOrder(DEFAULT_TENANT, UserId("42"), Role.USER, timedelta(hours=1))
    token = issue_token(order, rules=rules, key=key, now=NOW)
    verified = await TokenVerifier(rules, keys, clock).verify(token)
    return verified.principal.subject == "42"


async def test_secret_made_at_the_first_start_verifies() -> None:
    assert await is_believed(Settings(), MADE.encode())


async def test_shared_secret_file_comes_before_the_made_one(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"s" * 32 + b"\n")
    file.chmod(0o600)
    assert await is_believed(Settings(jwt_secret_file=file), b"s" * 32)


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize(
    ("mode", "text"), [(0o640, b"s" * 32), (0o604, b"s" * 32), (0o600, b"s" * 31)]
)
async def test_secret_that_others_can_read_or_guess_is_refused(
    tmp_path: Path, mode: int, text: bytes
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(text)
    file.chmod(mode)
    with pytest.raises(UnsafeSettings) as refused:
        await is_believed(Settings(jwt_secret_file=file), b"s" * 32)
    assert text.decode() not in str(refused.value)


async def test_start_without_any_secret_is_refused(tmp_path: Path) -> None:
    for settings, made in (
        (Settings(), None),
        (Settings(), "short"),
        (Settings(jwt_secret_file=tmp_path / "missing"), MADE),
    ):
        with pytest.raises(UnsafeSettings):
            await is_believed(settings, MADE.encode(), made)


async def test_key_file_may_hold_the_old_and_the_new_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(OLD, NEW))
    settings = Settings(jwt_algorithm="EdDSA", jwt_public_key_file=file)
    assert await is_believed(settings, OLD)
    assert await is_believed(settings, NEW)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"text",
        pem(generate_private_key(SECP256R1())),
        pem(OLD, generate_private_key(SECP256R1())),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        pem(*[OLD] * 101),
    ],
    ids=["empty", "text", "another kind", "one of another kind", "broken", "too many"],
)
async def test_key_file_with_anything_else_is_refused(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(text)
    with pytest.raises(KeySetUnavailable):
        await is_believed(Settings(jwt_algorithm="EdDSA", jwt_public_key_file=file), OLD)


async def test_another_curve_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(generate_private_key(SECP384R1())))
    with pytest.raises(KeySetUnavailable):
        await is_believed(Settings(jwt_algorithm="ES256", jwt_public_key_file=file), OLD)


async def test_secret_and_public_keys_are_never_mixed(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_bytes(pem(OLD))
    for settings in (
        Settings(jwt_public_key_file=file),
        Settings(jwt_jwks_url="https://id.example/keys"),
        Settings(jwt_algorithm="EdDSA"),
        Settings(jwt_algorithm="EdDSA", jwt_public_key_file=file, jwt_jwks_url=str(file)),
    ):
        with pytest.raises(UnsafeSettings):
            await open_key_set(settings, FrozenClock(NOW), made_secret=MADE)
