"""A published key set gives keys by name only, and is read again rarely."""

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from steelyard.access.errors import KeySetUnavailable, Refusal, UnsafeSettings
from steelyard.access.fetch_key_set import key_set_source
from steelyard.access.key_sets import PublishedKeys, parse_key_set
from steelyard.access.tokens import TokenRules
from steelyard.testing.clock import FrozenClock
from tests.unit.access.token_kit import NOW, Trial, claims, signed

OLD, NEW = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def member(key: Any, kid: Any, **more: Any) -> dict[str, Any]:
    kind = OKPAlgorithm if isinstance(key, Ed25519PrivateKey) else ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, **more}


def key_set(*members: Any) -> bytes:
    return json.dumps({"keys": members}).encode()


class Issuer:
    """Publishes a key set and counts how often it is read."""

    def __init__(self, *members: Any) -> None:
        self.members, self.reads, self.is_down = members, 0, False

    async def fetch(self) -> bytes:
        self.reads += 1
        if self.is_down:
            raise KeySetUnavailable(source="the issuer", problem="it is down")
        return key_set(*self.members)


async def opened(issuer: Issuer) -> tuple[Trial, FrozenClock]:
    clock = FrozenClock(NOW)
    keys = PublishedKeys("EdDSA", issuer.fetch, clock)
    await keys.load()
    return Trial(TokenRules(algorithm="EdDSA"), keys, clock), clock


def token_of(key: Any, kid: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    # Long-lived: these tests let hours pass.
    far = claims(exp=NOW.timestamp() + 86_400)
    return signed(far, key=key, algorithm="EdDSA", headers=headers)


async def test_rotated_key_is_found_by_one_read() -> None:
    issuer = Issuer(member(OLD, "old"))
    trial, clock = await opened(issuer)
    await trial.accept(token_of(OLD, "old"))
    issuer.members = (member(OLD, "old"), member(NEW, "new"))
    clock.move(timedelta(seconds=60))
    await trial.accept(token_of(NEW, "new"))
    await trial.accept(token_of(OLD, "old"))
    assert issuer.reads == 2


async def test_made_up_key_names_cost_the_issuer_one_read_a_minute() -> None:
    issuer = Issuer(member(OLD, "old"))
    trial, clock = await opened(issuer)
    for second in range(180):
        assert await trial.refuse(token_of(NEW, f"kid-{second}")) is Refusal.SIGNATURE
        clock.move(timedelta(seconds=1))
    assert issuer.reads == 3  # at start, and at 60 s and 120 s


async def test_withdrawn_key_ends_within_ten_minutes() -> None:
    issuer = Issuer(member(OLD, "old"))
    trial, clock = await opened(issuer)
    issuer.members = (member(NEW, "new"),)
    clock.move(timedelta(seconds=599))
    await trial.accept(token_of(OLD, "old"))
    clock.move(timedelta(seconds=1))
    assert await trial.refuse(token_of(OLD, "old")) is Refusal.SIGNATURE


async def test_known_keys_stay_while_the_issuer_is_down() -> None:
    issuer = Issuer(member(OLD, "old"))
    trial, clock = await opened(issuer)
    issuer.is_down = True
    clock.move(timedelta(hours=1))
    await trial.accept(token_of(OLD, "old"))
    await trial.accept(token_of(OLD, "old"))
    assert issuer.reads == 2


async def test_token_without_key_name_needs_a_set_of_one() -> None:
    trial, _ = await opened(Issuer(member(OLD, "old")))
    await trial.accept(token_of(OLD, None))
    trial, _ = await opened(Issuer(member(OLD, "old"), member(NEW, "new")))
    assert await trial.refuse(token_of(OLD, None)) is Refusal.SIGNATURE


async def test_key_of_another_name_does_not_verify() -> None:
    trial, _ = await opened(Issuer(member(OLD, "old"), member(NEW, "new")))
    assert await trial.refuse(token_of(NEW, "old")) is Refusal.SIGNATURE


P256, P384 = generate_private_key(SECP256R1()), generate_private_key(SECP384R1())


def test_only_public_keys_of_the_algorithm_are_taken() -> None:
    private = json.loads(OKPAlgorithm.to_jwk(NEW))
    members = [
        member(OLD, "right"),
        member(OLD, "for signing", use="sig", alg="EdDSA"),
        member(OLD, "for encryption", use="enc"),
        member(OLD, "another algorithm", alg="ES256"),
        member(P256, "another type"),
        member(OLD, 7),
        member(OLD, "twice"),
        member(NEW, "twice"),
        {**private, "kid": "private"},
        {"kty": "oct", "k": "AAAA", "kid": "symmetric", "crv": "Ed25519"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "short"},
        {"kty": "OKP", "crv": "Ed25519", "kid": "empty"},
        {"kty": ["OKP"], "crv": {}, "kid": "odd"},
        "text",
        None,
    ]
    assert sorted(parse_key_set(key_set(*members), "EdDSA")) == ["for signing", "right"]
    curves = key_set(member(P256, "p256"), member(P384, "p384"))
    assert list(parse_key_set(curves, "ES256")) == ["p256"]


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 5000, key_set(), key_set(*[{}] * 101)],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_usable_key_set_is_refused(text: bytes) -> None:
    with pytest.raises(KeySetUnavailable):
        parse_key_set(text, "EdDSA")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_unavailable(text: bytes) -> None:
    with pytest.raises(KeySetUnavailable):
        parse_key_set(text, "ES256")


@pytest.mark.parametrize(
    "address",
    ["http://id.example/keys", "ftp://id.example/keys", "http://127.0.0.1.evil.example/keys"],
)
def test_key_set_over_plain_http_is_refused(address: str) -> None:
    with pytest.raises(UnsafeSettings):
        key_set_source(address)
