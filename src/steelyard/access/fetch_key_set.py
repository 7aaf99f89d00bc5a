"""Fetches an issuer's key set: one address from the settings, a total deadline, a cap, no redirects."""

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx2

from steelyard.access.errors import KeySetUnavailable, UnsafeSettings

FETCH_DEADLINE_S: Final = 5.0
KEY_SET_BYTES_MAX: Final = 262_144


def key_set_source(address: str) -> Callable[[], Awaitable[bytes]]:
    """Return what reads the key set at an https address, or at a path or file: address.

    Plain http is taken for loopback only: whoever can change the answer on the way could sign tokens.

    Raises:
        UnsafeSettings: Another kind of address.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return lambda: fetch_key_set(address)
    if parts.scheme == "file":
        return lambda: read_key_set(Path(unquote(parts.path)))
    if "://" not in address:
        return lambda: read_key_set(Path(address))
    raise UnsafeSettings(
        setting="STEELYARD_JWT_JWKS_URL",
        problem="it must be https, http on loopback, or a file",
    )


async def fetch_key_set(address: str, *, deadline_s: float = FETCH_DEADLINE_S) -> bytes:
    """Return the body at `address`.

    Raises:
        KeySetUnavailable: Not answered with 200 in time, compressed, or larger than 256 KiB.
    """
    body = bytearray()
    try:
        # A timeout per read would let a server that dribbles hold the call for ever.
        async with (
            asyncio.timeout(deadline_s),
            httpx2.AsyncClient(follow_redirects=False, timeout=deadline_s) as client,
            client.stream("GET", address, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                raise _unavailable(address, f"it answered {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _unavailable(address, "it answered a compressed body")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > KEY_SET_BYTES_MAX:
                    raise _unavailable(address, f"it is larger than {KEY_SET_BYTES_MAX} bytes")
    except TimeoutError as error:
        raise _unavailable(address, f"it did not answer within {deadline_s} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise _unavailable(address, type(error).__name__) from error
    return bytes(body)


async def read_key_set(path: Path) -> bytes:
    """Return a key set from a local file.

    Raises:
        KeySetUnavailable: It cannot be read or is larger than 256 KiB.
    """
    try:
        body = _read_start(path)
    except OSError as error:
        raise _unavailable(str(path), error.strerror or "it cannot be read") from error
    if len(body) > KEY_SET_BYTES_MAX:
        raise _unavailable(str(path), f"it is larger than {KEY_SET_BYTES_MAX} bytes")
    return body


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(KEY_SET_BYTES_MAX + 1)


def _unavailable(source: str, problem: str) -> KeySetUnavailable:
    # The address may carry a password or a query; neither belongs into a log.
    shown = urlsplit(source)
    host = shown.netloc.rpartition("@")[2]
    return KeySetUnavailable(source=shown._replace(netloc=host, query="").geturl(), problem=problem)


def _is_loopback(host: str | None) -> bool:
    if host is None or host == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
