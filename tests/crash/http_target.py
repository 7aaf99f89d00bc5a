"""The whole product over real HTTP: `steelyard serve` processes side by side on one database."""

import asyncio
import secrets
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, issue_token
from steelyard.core.ids import DEFAULT_TENANT, UserId
from tests.crash.history import Asked, Done, Outcome, Refused, Unknown
from tests.crash.target import ChildProcess, ProcessDown, Standing, Target, python_command

RULES = TokenRules(issuer="https://crash.test", audience="steelyard")
ANSWER_DEADLINE_S = 12.0
PATHS = {
    "charge": "charges",
    "recharge": "recharges",
    "hold": "holds",
    "transfer": "transfers",
    "reversal": "reversals",
}
LOST = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(msgspec.Struct):
    """What of a transaction's document is compared."""

    seq: int
    amount: int
    held_amount: int
    balance_after: int
    held_after: int


class Problem(msgspec.Struct):
    """What of a problem document is read."""

    code: str


class BalanceDocument(msgspec.Struct):
    """What of a balance's document is compared."""

    seq: int
    posted: int
    held: int
    stale: bool = False


class Spoken(msgspec.Struct):
    """One answer over HTTP."""

    status: int
    body: bytes


class HttpTarget(Target):
    """`steelyard serve` processes on one database, each on a port of its own."""

    def __init__(self, folder: Path, url: str, *, count: int = 2) -> None:
        secret = secrets.token_hex(32)
        secret_file = folder / "secret"
        secret_file.write_text(secret)
        secret_file.chmod(0o600)
        self.ports = _free_ports(count)
        self.token = _token(secret)
        environment = {
            "STEELYARD_DATABASE_URL": url,
            "STEELYARD_JWT_SECRET_FILE": str(secret_file),
            "STEELYARD_JWT_ISSUER": str(RULES.issuer),
            "STEELYARD_JWT_AUDIENCE": str(RULES.audience),
            "STEELYARD_POOL_SIZE": "4",
            "STEELYARD_LOG_LEVEL": "warning",
        }
        super().__init__(
            [
                ChildProcess(
                    f"steelyard serve at {port}",
                    python_command("steelyard", "serve", "--port", str(port)),
                    folder / f"serve-{number}.log",
                    environment,
                )
                for number, port in enumerate(self.ports)
            ]
        )
        self._idle: list[list[Streams]] = [[] for _ in self.ports]

    async def is_ready(self, process: int) -> bool:
        """Whether `/readyz` answers 200."""
        try:
            return (await self.request(process, "GET", "/readyz")).status == 200
        except (ProcessDown, *LOST):
            return False

    async def send(self, process: int, asked: Asked) -> Outcome:
        """Send one order as a POST with its key."""
        path, body = _document(asked)
        self.in_flight[process] += 1
        try:
            spoken = await self.request(process, "POST", path, body=body, key=asked.key)
        except LOST as error:
            return Unknown(type(error).__name__)
        finally:
            self.in_flight[process] -= 1
        outcome = _outcome_of(spoken)
        if not isinstance(outcome, Unknown):
            self.answered[process] += 1
        return outcome

    async def read(self, process: int, account: int) -> Standing | None:
        """Read one balance; one that is said to be stale is none."""
        try:
            spoken = await self.request(process, "GET", f"/api/accounts/{account}/balance")
        except LOST:
            return None
        if spoken.status != 200:
            return None
        found = msgspec.json.decode(spoken.body, type=BalanceDocument)
        return None if found.stale else Standing(found.seq, found.posted, found.held)

    async def disconnect(self, process: int) -> None:
        """Drop the connections that wait for a next request."""
        for _, outgoing in self._idle[process]:
            outgoing.close()
        self._idle[process].clear()

    async def request(
        self,
        process: int,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        key: str | None = None,
    ) -> Spoken:
        """Send one request on a connection of its own.

        Raises:
            ProcessDown: Nobody listens; nothing was sent.
            OSError, IncompleteReadError, TimeoutError: No whole answer came.
        """
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {self.token}",
            f"Content-Length: {len(body)}",
            *(["Content-Type: application/json"] if body else []),
            *([f"Idempotency-Key: {key}"] if key else []),
        ]
        streams = await self._take(process)
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                streams[1].write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
                spoken = await _listen(streams[0])
        except BaseException:
            streams[1].close()
            raise
        self._idle[process].append(streams)
        return spoken

    async def _take(self, process: int) -> Streams:
        idle = self._idle[process]
        while idle:
            streams = idle.pop()
            if not streams[0].at_eof() and not streams[1].is_closing():
                return streams
            streams[1].close()
        try:
            return await asyncio.open_connection("127.0.0.1", self.ports[process])
        except OSError:
            raise ProcessDown from None


async def _listen(incoming: asyncio.StreamReader) -> Spoken:
    head = (await incoming.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ", 2)[1])
    fields = dict(line.lower().split(":", 1) for line in head[1:] if ":" in line)
    length = int(fields.get("content-length", "0"))
    return Spoken(status, await incoming.readexactly(length))


def _document(asked: Asked) -> tuple[str, bytes]:
    """Return where an order is sent, and its body."""
    body: dict[str, Any] = {"description": asked.description}
    if asked.amount is not None:
        body["amount"] = asked.amount
    account = f"/api/accounts/{asked.account}"
    if asked.kind in ("capture", "release"):
        hold = f"{asked.account}-{asked.target}"
        return f"{account}/holds/{hold}/{asked.kind}", msgspec.json.encode(body)
    if asked.kind == "transfer":
        body["to_account"] = str(asked.counter)
    if asked.kind == "reversal":
        body["transaction"] = f"{asked.account}-{asked.target}"
    return f"{account}/{PATHS[asked.kind]}", msgspec.json.encode(body)


def _outcome_of(spoken: Spoken) -> Outcome:
    if spoken.status in (200, 201):
        found = msgspec.json.decode(spoken.body, type=Answer)
        return Done(
            found.seq,
            found.amount,
            found.held_amount,
            found.balance_after,
            found.held_after,
            replayed=spoken.status == 200,
        )
    code = msgspec.json.decode(spoken.body, type=Problem).code
    return Unknown(code) if code == "database_unavailable" else Refused(code)


def _token(secret: str) -> str:
    order = TokenOrder(DEFAULT_TENANT, UserId("crash"), Role.SERVICE, timedelta(hours=6))
    return issue_token(order, rules=RULES, key=secret.encode(), now=datetime.now(UTC))


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
