"""Carries a client's requests to a simulated bank without sockets, so that both run under one virtual clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

import httpx2

from steelyard.providers.t24.simulator.answers import Reply
from steelyard.providers.t24.simulator.bank import AskedRequest, SimulatedBank


class InMemoryTransport(httpx2.AsyncBaseTransport):
    """Give it to `open_client`: the same client, decoder and deadlines, and no network.

    A bank `is_refusing` while it is out of reach.
    """

    def __init__(self, bank: SimulatedBank) -> None:
        self._bank = bank
        self.is_refusing = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.is_refusing:
            raise httpx2.ConnectError("refused")
        asked = AskedRequest(
            request.method,
            request.url.raw_path.decode("ascii"),
            {name.lower(): value for name, value in request.headers.items()},
        )
        with ExitStack() as counted:
            reply = counted.enter_context(self._bank.answering(asked))
            if reply.is_reset:
                raise httpx2.ReadError("reset")
            if reply.is_hanging:
                await asyncio.Event().wait()
            await asyncio.sleep(reply.delay_s)
            stream = _Body(reply, counted.pop_all())
            return httpx2.Response(reply.status, headers=dict(reply.headers), stream=stream)


class _Body(httpx2.AsyncByteStream):
    """An answer's bytes as they come; the request counts as in flight until it is closed."""

    def __init__(self, reply: Reply, counted: ExitStack) -> None:
        self._reply, self._counted = reply, counted

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reply = self._reply
        if reply.gap_s > 0:
            for index in range(len(reply.body)):
                yield reply.body[index : index + 1]
                await asyncio.sleep(reply.gap_s)
            return
        yield reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
        if reply.cut_at is not None:
            raise httpx2.RemoteProtocolError("cut off")

    async def aclose(self) -> None:
        self._counted.close()
