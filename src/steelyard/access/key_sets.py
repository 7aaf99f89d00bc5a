"""Which keys a token may be signed with. A token chooses among them by `kid`, never by anything else."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from steelyard.access.errors import KeySetUnavailable
from steelyard.access.recent import Recent
from steelyard.core.clock import Clock

Algorithm = Literal["HS256", "ES256", "EdDSA"]
VerificationKey = bytes | EllipticCurvePublicKey | Ed25519PublicKey

REFETCH_INTERVAL_S: Final = 60.0
"""A key set is read again at most this often, whatever `kid` tokens name."""

KEY_SET_AGE_S_MAX: Final = 600.0
"""A key set older than this is read again before it is used, so that withdrawn keys end."""

_KEYS_MAX = 100
_CURVES: Mapping[str, tuple[str, str]] = {"ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}


class KeySet(Protocol):
    """Where verification keys come from."""

    async def list_keys(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the keys to try for a token's `kid`; none if it names no key of ours."""
        ...


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys given at start. `kid` is ignored: all of them are tried."""

    keys: tuple[VerificationKey, ...] = field(repr=False)

    async def list_keys(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return all keys."""
        return self.keys


@dataclass(slots=True)
class PublishedKeys:
    """An issuer's JSON Web Key Set, read again when it is old or a token names a key it lacks.

    Reading again happens at most once per 60 s, so tokens that name made-up keys cost the issuer nothing. While
    it fails, the keys known so far stay in use.
    """

    algorithm: Algorithm
    fetch: Callable[[], Awaitable[bytes]]
    clock: Clock
    _keys: Mapping[str, VerificationKey] = field(default_factory=dict)
    _read_at_s: float | None = None
    _tries: Recent[str, None] = field(init=False)

    def __post_init__(self) -> None:
        self._tries = Recent(self.clock, REFETCH_INTERVAL_S, 1)

    async def load(self) -> None:
        """Read the set; call it at start so that a wrong address is seen at once.

        Raises:
            KeySetUnavailable: It cannot be read or holds no usable key.
        """
        self._keys = parse_key_set(await self.fetch(), self.algorithm)
        self._read_at_s = self.clock.monotonic_s()
        self._tries.keep("", None)

    async def list_keys(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """Return the key named `kid`; for a token that names none, the only key there is."""
        if self._is_old() or (kid is not None and kid not in self._keys):
            await self._tries.get("", self._load_again)
        if kid is None:
            return tuple(self._keys.values()) if len(self._keys) == 1 else ()
        found = self._keys.get(kid)
        return () if found is None else (found,)

    def _is_old(self) -> bool:
        age_from_s = self._read_at_s
        return age_from_s is None or self.clock.monotonic_s() - age_from_s >= KEY_SET_AGE_S_MAX

    async def _load_again(self) -> None:
        try:
            keys = parse_key_set(await self.fetch(), self.algorithm)
        except KeySetUnavailable:
            return  # tried; the next try is 60 s away
        self._keys, self._read_at_s = keys, self.clock.monotonic_s()


def parse_key_set(text: bytes, algorithm: Algorithm) -> Mapping[str, VerificationKey]:
    """Return the usable public keys of a JSON Web Key Set by `kid`.

    Keys of another type, curve, algorithm or use, symmetric and private keys, and keys without `kid` are
    left out; so is every key whose `kid` occurs twice.

    Raises:
        KeySetUnavailable: It is no key set, holds more than 100 keys or no usable one.
    """
    try:
        members = json.loads(text)["keys"]
        if not isinstance(members, list):
            raise TypeError("keys is not a list")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise KeySetUnavailable(source="the issuer", problem="it is no JSON Web Key Set") from error
    if len(members) > _KEYS_MAX:
        raise KeySetUnavailable(source="the issuer", problem=f"it holds more than {_KEYS_MAX} keys")
    keys: dict[str, VerificationKey] = {}
    twice: set[str] = set()
    for member in members:
        key = _find_key(member, algorithm)
        if key is not None:
            twice |= {member["kid"]} & keys.keys()
            keys[member["kid"]] = key
    usable = {kid: key for kid, key in keys.items() if kid not in twice}
    if not usable:
        raise KeySetUnavailable(source="the issuer", problem=f"it holds no key for {algorithm}")
    return usable


def _find_key(member: object, algorithm: Algorithm) -> VerificationKey | None:
    kty, crv = _CURVES[algorithm]
    if not isinstance(member, dict) or "d" in member or not isinstance(member.get("kid"), str):
        return None
    if (member.get("kty"), member.get("crv")) != (kty, crv):
        return None
    if member.get("use", "sig") != "sig" or member.get("alg", algorithm) != algorithm:
        return None
    try:
        key = (ECAlgorithm if kty == "EC" else OKPAlgorithm).from_jwk(member)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return key if isinstance(key, EllipticCurvePublicKey | Ed25519PublicKey) else None


def read_public_keys(path: Path, algorithm: Algorithm) -> FixedKeys:
    """Read one or more PEM public keys from a file, at most 100.

    Raises:
        KeySetUnavailable: The file cannot be read or holds something else than public keys for the algorithm.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise KeySetUnavailable(
            source=str(path), problem=error.strerror or "it cannot be read"
        ) from error
    end = b"-----END PUBLIC KEY-----"
    blocks = [block + end for block in text.split(end)[:-1]]
    keys = tuple(_read_public_key(block, algorithm, path) for block in blocks[: _KEYS_MAX + 1])
    if not 0 < len(keys) <= _KEYS_MAX:
        raise KeySetUnavailable(
            source=str(path), problem=f"it must hold 1 to {_KEYS_MAX} PEM public keys"
        )
    return FixedKeys(keys)


def _read_public_key(block: bytes, algorithm: Algorithm, path: Path) -> VerificationKey:
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeySetUnavailable(
            source=str(path), problem="it holds a broken PEM public key"
        ) from error
    if (
        algorithm == "ES256"
        and isinstance(key, EllipticCurvePublicKey)
        and isinstance(key.curve, SECP256R1)
    ):
        return key
    if algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return key
    raise KeySetUnavailable(
        source=str(path), problem=f"it holds a key that is not one for {algorithm}"
    )
