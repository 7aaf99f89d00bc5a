"""Screens that watch balances over the plain WebSocket, come and go, and keep account of all they were told."""

import asyncio
import json
from dataclasses import dataclass, field
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

RETRY_S = 0.1
OPEN_DEADLINE_S = 10.0


@dataclass(eq=False)
class Screen:
    """One user's screen: it resumes by its position whenever it comes back."""

    port: int
    account: str
    token: str
    begin: int
    """`seq` of the account when the screen was first opened."""
    completed: list[int] = field(default_factory=list)
    balance: float | None = None
    balance_seq: int = 0
    faults: list[str] = field(default_factory=list)
    connections: int = 0
    snapshots: int = 0
    _connection: ClientConnection | None = None
    _is_over: bool = False

    @property
    def position(self) -> int:
        """The newest change it has been told completely."""
        return self.completed[-1] if self.completed else self.begin

    def drop(self) -> None:
        """Pull the plug, without a goodbye."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def run(self) -> None:
        """Watch until told that it is over."""
        while not self._is_over:
            try:
                async with connect(
                    self._url(),
                    open_timeout=OPEN_DEADLINE_S,
                    compression=None,
                    ping_interval=None,
                    close_timeout=1,
                ) as self._connection:
                    self.connections += 1
                    async for frame in self._connection:
                        self._hear(json.loads(frame))
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, EOFError):
                pass
            finally:
                self._connection = None
            if not self._is_over:
                await asyncio.sleep(RETRY_S)

    async def end(self) -> None:
        """Close for good."""
        self._is_over = True
        if self._connection is not None:
            await self._connection.close()

    def _url(self) -> str:
        positions = quote(json.dumps({self.account: self.position}))
        return f"ws://127.0.0.1:{self.port}/balance?token={self.token}&positions={positions}"

    def _hear(self, event: dict[str, object]) -> None:
        name = event["event"]
        if "accountId" in event and event["accountId"] != self.account:
            self.faults.append(f"another's event: {event}")
        elif name == "transaction_completed":
            self._note(event)
        elif name == "balance_updated":
            self._show(event["newBalance"], event["seq"])
        elif name == "balance_initial":
            self._show(event["balance"], event["seq"])
            if event.get("resumed") is False and self.connections > 1:
                self.snapshots += 1
        elif name == "error":
            self.faults.append(f"error: {event}")

    def _note(self, event: dict[str, object]) -> None:
        seq = event["seq"]
        assert isinstance(seq, int)
        if seq != self.position + 1:
            self.faults.append(f"told {seq} after {self.position}")
        self.completed.append(seq)

    def _show(self, balance: object, seq: object) -> None:
        assert isinstance(seq, int)
        assert isinstance(balance, int | float)
        if seq < self.position:
            self.faults.append(f"balance of {seq} after change {self.position}")
        if seq >= self.balance_seq:
            self.balance, self.balance_seq = float(balance), seq
