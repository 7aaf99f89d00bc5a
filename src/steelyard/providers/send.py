"""Sends one request to a provider under one deadline, and lets in no answer that is too large or of another kind.

Neither an address nor a header of a request is ever logged: the first may hold an account number, the second
holds a credential.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx2

from steelyard.core.clock import Clock
from steelyard.providers.classify import error_of_status
from steelyard.providers.errors import (
    ProviderError,
    ProviderMalformed,
    ProviderRefusedRequest,
    ProviderTransient,
)

ANSWER_BYTES_MAX: Final = 1_048_576
IDLE_S_MAX: Final = 30.0
CONNECT_SHARE: Final = 0.75
"""Share of a deadline after which an attempt to connect, or to agree on keys, is given up."""

# An answer with one of these may say in its body what it is about.
_TOLD_IN_BODY: Final = frozenset({200, 400, 404})


@dataclass(frozen=True, slots=True)
class OutsideRequest:
    """A request as it is sent; hidden from logs."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class OutsideAnswer:
    """A whole answer with a JSON body.

    Args:
        status: 200, 400 or 404.
        body: JSON by its content type; not yet read.
    """

    status: int
    body: bytes = field(repr=False)


def open_transport(
    url: str, *, connections_max: int, ca_file: str | None = None
) -> httpx2.AsyncHTTPTransport:
    """Return a pool of connections to one provider.

    No proxy, cookie or password of the environment is used.

    Args:
        url: Where the provider answers; the system's certificates are read only for https.
        connections_max: Connections at once; whoever comes later waits within its own deadline.
        ca_file: Certificates to trust instead of the system's.
    Raises:
        OSError: The file of certificates cannot be read.
    """
    trusts_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx2.AsyncHTTPTransport(
        verify=ssl.create_default_context(cafile=ca_file)
        if url.lower().startswith("https:")
        else trusts_nobody,
        trust_env=False,
        limits=httpx2.Limits(
            max_connections=connections_max,
            max_keepalive_connections=connections_max,
            keepalive_expiry=IDLE_S_MAX,
        ),
    )


class Sender:
    """Sends requests of one provider; bounded in time, size and connections."""

    def __init__(
        self, transport: httpx2.AsyncBaseTransport, *, provider: str, clock: Clock
    ) -> None:
        self._transport, self._provider, self._clock = transport, provider, clock

    async def send(self, order: OutsideRequest, *, deadline_s: float) -> OutsideAnswer:
        """Return the whole answer to one request.

        Args:
            order: What to send.
            deadline_s: Seconds for everything: waiting for a connection, making it, and the last byte.
        Raises:
            ProviderError: No whole JSON answer with status 200, 400 or 404 came in time.
        """
        try:
            # A timeout per read would let a server that dribbles hold the call for ever.
            async with asyncio.timeout(deadline_s):
                return await self._exchange(order, deadline_s)
        except (TimeoutError, httpx2.TimeoutException):
            raise self._transient("deadline") from None
        except httpx2.ConnectError as error:
            raise self._transient(_why_unreachable(error)) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.LocalProtocolError):
            raise ProviderRefusedRequest(provider=self._provider, reason="address") from None
        except (httpx2.HTTPError, OSError):
            raise self._transient("cut_off") from None

    async def _exchange(self, order: OutsideRequest, deadline_s: float) -> OutsideAnswer:
        request = httpx2.Request(
            order.method,
            order.url,
            headers={"Accept-Encoding": "identity", **order.headers},
            content=order.body,
            # Ours to end: a handshake that is cancelled from outside leaves its socket to the collector.
            extensions={"timeout": {"connect": deadline_s * CONNECT_SHARE}},
        )
        response = await self._transport.handle_async_request(request)
        response.request = request
        try:
            refusal = self._refusal_of(response)
            if refusal is not None and response.status_code not in _TOLD_IN_BODY:
                raise refusal
            problem = _kind_problem(response)
            if (
                problem is not None
            ):  # a page of something in between: only its status tells anything
                raise refusal or self._malformed(problem)
            return OutsideAnswer(response.status_code, await self._read_body(response))
        finally:
            await response.aclose()

    def _refusal_of(self, response: httpx2.Response) -> ProviderError | None:
        if response.status_code == 200:
            return None
        return error_of_status(
            response.status_code,
            response.headers,
            provider=self._provider,
            now=self._clock.now(),
        )

    async def _read_body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        assert isinstance(response.stream, httpx2.AsyncByteStream), "transports answer with one"
        async for chunk in response.stream:
            body += chunk
            if len(body) > ANSWER_BYTES_MAX:
                raise self._malformed("too_large")
        return bytes(body)

    def _malformed(self, reason: str) -> ProviderMalformed:
        return ProviderMalformed(provider=self._provider, reason=reason)

    def _transient(self, reason: str) -> ProviderTransient:
        return ProviderTransient(provider=self._provider, reason=reason)


def _kind_problem(response: httpx2.Response) -> str | None:
    """Return why the body is not to be read as JSON, or None."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return "compressed"
    media, _, options = response.headers.get("content-type", "").lower().partition(";")
    media = media.strip()
    if media != "application/json" and not (
        media.startswith("application/") and media.endswith("+json")
    ):
        return "content_type"
    charset = options.replace(" ", "").replace('"', "").partition("charset=")[2]
    return "content_type" if charset and charset not in ("utf-8", "utf8") else None


def _why_unreachable(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return "certificate" if isinstance(cause, ssl.SSLCertVerificationError) else "tls"
        cause = cause.__cause__ or cause.__context__
    return "unreachable"
