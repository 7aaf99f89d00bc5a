"""A token is believed only if every part of it holds."""

import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from steelyard.access.errors import Refusal, Unauthenticated, UnsafeSettings
from steelyard.access.key_sets import FixedKeys
from steelyard.access.model import Principal, Role
from steelyard.access.tokens import (
    TOKEN_BYTES_MAX,
    TokenOrder,
    TokenRules,
    check_names_issuer_and_audience,
    issue_token,
)
from steelyard.core.errors import InvalidInput
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId
from tests.unit.access.token_kit import NOW, SECRET, Trial, assembled, claims, signed

ED25519 = Ed25519PrivateKey.generate()
P256 = generate_private_key(SECP256R1())
ORDER = TokenOrder(TenantId("acme"), UserId("42"), Role.ADMIN, timedelta(minutes=15))


async def test_token_says_who_asks() -> None:
    token = signed(claims(tenant="acme", role="operator"))
    verified = await Trial().accept(token)
    assert verified.principal == Principal(TenantId("acme"), "42", Role.OPERATOR, UserId("42"))
    assert verified.expires_at == NOW + timedelta(seconds=60)
    assert verified.issued_at == NOW


async def test_absent_tenant_and_role_are_the_default_tenant_and_user() -> None:
    verified = await Trial().accept(signed(claims()))
    assert verified.principal == Principal(DEFAULT_TENANT, "42", Role.USER, UserId("42"))


async def test_claim_names_come_from_the_rules() -> None:
    trial = Trial(TokenRules(tenant_claim="org", role_claim="https://x.example/role"))
    token = signed(claims(org="acme", **{"https://x.example/role": "service"}, role="admin"))
    assert (await trial.accept(token)).principal.role is Role.SERVICE


async def test_integer_subject_is_taken_as_text() -> None:
    assert (await Trial().accept(signed(claims(sub=42)))).principal.subject == "42"


@pytest.mark.parametrize(
    ("rules", "signing", "verifying"),
    [
        (TokenRules(), SECRET, SECRET),
        (TokenRules(algorithm="EdDSA"), ED25519, ED25519.public_key()),
        (TokenRules(algorithm="ES256"), P256, P256.public_key()),
        (TokenRules(issuer="https://id.example", audience="steelyard"), SECRET, SECRET),
        (TokenRules(tenant_claim="org", role_claim="as"), SECRET, SECRET),
    ],
    ids=["HS256", "EdDSA", "ES256", "issuer and audience", "claim names"],
)
async def test_issued_token_is_believed_by_the_same_rules(
    rules: TokenRules, signing: Any, verifying: Any
) -> None:
    token = issue_token(ORDER, rules=rules, key=signing, now=NOW)
    verified = await Trial(rules, FixedKeys((verifying,))).accept(token)
    assert verified.principal == Principal(TenantId("acme"), "42", Role.ADMIN, UserId("42"))
    assert verified.expires_at == NOW + timedelta(minutes=15)


@pytest.mark.parametrize("user", ["key:abc", "system:verify"])
def test_no_token_is_issued_under_a_reserved_name(user: str) -> None:
    order = TokenOrder(DEFAULT_TENANT, UserId(user), Role.USER, timedelta(hours=1))
    with pytest.raises(InvalidInput):
        issue_token(order, rules=TokenRules(), key=SECRET, now=NOW)


async def test_token_ends_at_exp_and_five_seconds() -> None:
    trial, token = Trial(), signed(claims())
    trial.wait(64.9)
    await trial.accept(token)
    trial.wait(0.1)
    assert await trial.refuse(token) is Refusal.EXPIRED


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_token_from_the_future_is_refused_beyond_the_leeway(name: str) -> None:
    trial = Trial()
    await trial.accept(signed(claims(**{name: NOW.timestamp() + 5})))
    assert (
        await trial.refuse(signed(claims(**{name: NOW.timestamp() + 6}))) is Refusal.NOT_YET_VALID
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": None},
        {"exp": "4102444800"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": 10**400},
        {"exp": -1},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": [1]},
        {"iat": "now"},
        {"nbf": {}},
        {"sub": None},
        {"sub": ""},
        {"sub": True},
        {"sub": 1.5},
        {"sub": 10**300},
        {"sub": ["42"]},
        {"sub": "x" * 129},
        {"sub": "a\nb"},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"sub": "key:0123456789abcdef"},
        {"sub": "system:verify"},
        {"tenant": 1},
        {"tenant": ""},
        {"tenant": "Acme"},
        {"tenant": "a'; SELECT 1 --"},
        {"tenant": ["acme"]},
        {"role": "root"},
        {"role": "ADMIN"},
        {"role": ["admin"]},
        {"role": ""},
    ],
    ids=repr,
)
async def test_claim_of_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    assert await Trial().refuse(signed(claims(**wrong))) is Refusal.CLAIMS


async def test_null_tenant_and_role_are_refused() -> None:
    for name in ("tenant", "role"):
        assert await Trial().refuse(signed({**claims(), name: None})) is Refusal.CLAIMS


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b"", b"{", b"\xff", b"[" * 1500])
async def test_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert await Trial().refuse(signed(payload)) is Refusal.CLAIMS


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": None},
        {"iss": "https://evil.example"},
        {"iss": ["https://id.example"]},
        {"aud": None},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": {"steelyard": 1}},
        {"aud": "steelyards"},
    ],
    ids=repr,
)
async def test_token_for_or_from_somebody_else_is_refused(wrong: dict[str, Any]) -> None:
    trial = Trial(TokenRules(issuer="https://id.example", audience="steelyard"))
    right = {"iss": "https://id.example", "aud": ["other", "steelyard"]}
    await trial.accept(signed(claims(**right)))
    assert await trial.refuse(signed(claims(**{**right, **wrong}))) is Refusal.CLAIMS


async def test_forged_signature_is_refused() -> None:
    head, body, signature = signed(claims()).split(".")
    _, other, _ = signed(claims(role="admin")).split(".")
    trial = Trial()
    assert await trial.refuse(f"{head}.{other}.{signature}") is Refusal.SIGNATURE
    assert await trial.refuse(f"{head}.{body}.") is Refusal.SIGNATURE
    assert await trial.refuse(signed(claims(), key=b"f" * 32)) is Refusal.SIGNATURE


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, ["HS256"], "HS384", "ES256"])
async def test_other_algorithm_in_the_header_is_refused(alg: Any) -> None:
    forged = assembled({"alg": alg, "typ": "JWT"}, claims())
    assert await Trial().refuse(forged) is Refusal.SIGNATURE
    assert await Trial().refuse(assembled({"typ": "JWT"}, claims())) is Refusal.SIGNATURE


@pytest.mark.parametrize("alg", ["HS384", "HS512"])
async def test_other_algorithm_of_the_same_family_is_refused_with_the_right_secret(
    alg: str,
) -> None:
    unsigned = assembled({"alg": alg}, claims()).rpartition(".")[0]
    code = hmac.digest(SECRET, unsigned.encode(), f"sha{alg[2:]}")
    assert await Trial().refuse(assembled({"alg": alg}, claims(), code)) is Refusal.SIGNATURE


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
async def test_public_key_is_never_taken_as_an_hmac_secret(algorithm: Any) -> None:
    public = (P256 if algorithm == "ES256" else ED25519).public_key()
    trial = Trial(TokenRules(algorithm=algorithm), FixedKeys((public,)))
    raw = (
        public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if algorithm == "EdDSA"
        else public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    )
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for secret in (raw, der, pem, pem.strip()):
        unsigned = assembled({"alg": "HS256", "typ": "JWT"}, claims())
        code = hmac.digest(secret, unsigned.rpartition(".")[0].encode(), "sha256")
        forged = assembled({"alg": "HS256", "typ": "JWT"}, claims(), code)
        assert await trial.refuse(forged) is Refusal.SIGNATURE


async def test_keys_named_by_the_token_itself_are_never_used() -> None:
    own = Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}
    trial = Trial(TokenRules(algorithm="EdDSA"), FixedKeys((ED25519.public_key(),)))
    for header in (
        {"jwk": jwk},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"kid": "../../etc/passwd"},
        {"kid": "' OR 1=1 --"},
    ):
        token = signed(claims(), key=own, algorithm="EdDSA", headers=header)
        assert await trial.refuse(token) is Refusal.SIGNATURE


async def test_oversized_token_is_refused_unread() -> None:
    token = signed(claims(note="x" * TOKEN_BYTES_MAX))
    assert len(token) > TOKEN_BYTES_MAX
    assert await Trial().refuse(token) is Refusal.TOO_LARGE
    assert await Trial().refuse("." * (TOKEN_BYTES_MAX + 1)) is Refusal.TOO_LARGE


async def test_deeply_nested_header_is_refused() -> None:
    head = json.loads("[" * 500 + "]" * 500)
    assert await Trial().refuse(assembled(head, {})) is Refusal.MALFORMED
    assert await Trial().refuse(assembled({"kid": head, "alg": "HS256"}, {})) is not None


@given(st.text(max_size=300))
async def test_any_text_is_refused_as_unauthenticated(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await Trial().verifier.verify(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
header_names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "cty"])


@given(st.dictionaries(header_names, json_values), json_values, st.binary(max_size=40))
async def test_any_header_and_payload_is_refused_as_unauthenticated(
    header: dict[str, Any], payload: Any, signature: bytes
) -> None:
    for alg in ({}, {"alg": "HS256"}):
        with pytest.raises(Unauthenticated):
            await Trial().verifier.verify(assembled({**header, **alg}, payload, signature))


claim_names = st.sampled_from(["sub", "exp", "iat", "nbf", "iss", "aud", "tenant", "role"])


@given(st.dictionaries(claim_names, json_values))
async def test_any_signed_claims_are_believed_whole_or_refused(wrong: dict[str, Any]) -> None:
    token = signed({**claims(), **wrong})
    try:
        verified = await Trial().verifier.verify(token)
    except Unauthenticated:
        return
    assert isinstance(verified.principal.role, Role)
    assert verified.expires_at + timedelta(seconds=5) > NOW
    assert 1 <= len(verified.principal.subject) <= 128


def test_serve_wants_issuer_and_audience() -> None:
    check_names_issuer_and_audience(TokenRules(issuer="https://id.example", audience="steelyard"))
    for rules in (TokenRules(issuer="a"), TokenRules(audience="a"), TokenRules()):
        with pytest.raises(UnsafeSettings, match="refusing to start"):
            check_names_issuer_and_audience(rules)


@pytest.mark.parametrize(
    "rules",
    [
        {"leeway": timedelta(seconds=6)},
        {"leeway": timedelta(seconds=-1)},
        {"tenant_claim": "role"},
        {"tenant_claim": "sub"},
        {"role_claim": ""},
    ],
    ids=repr,
)
def test_unsafe_rules_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(UnsafeSettings):
        TokenRules(**rules)
