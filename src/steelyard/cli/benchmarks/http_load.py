"""The load of the HTTP benchmark, in a process of its own: `python -m steelyard.cli.benchmarks.http_load`.

The plan comes as one line of JSON on stdin, the result goes out as one line on stdout. Each connection is
kept alive and asks again as soon as it has its answer. A request is put together from ready-made bytes, an
answer is read only as far as its status and length, so that the load costs the machine little.
"""

import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import cast

import msgspec

from steelyard.cli.benchmarks.callers import Keys, Picks, sample_of
from steelyard.cli.serving import run_in_loop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "
GRACE_S = 10.0


class LoadPlan(msgspec.Struct):
    """What to ask of whom, for how long. `path` holds `{}` where the account stands."""

    port: int
    method: str
    path: str
    token: str
    first_account: int
    accounts: int
    connections: int
    warm_s: float
    seconds: float
    body: str = ""
    expected: int = 200


class LoadResult(msgspec.Struct):
    """What was seen. `answered` counts every expected answer, also those before the clock began."""

    per_s: float
    p50_ms: float
    p99_ms: float
    done: int
    answered: int
    unexpected: dict[str, int]
    """Other statuses, and lost connections, with how often."""


@dataclass(slots=True)
class Tally:
    """What all connections saw, while the clock runs and before."""

    expected: bytes
    warm_until_s: float
    seconds: float
    connections: int
    begins_s: float = math.inf
    ends_s: float = math.inf
    answered: int = 0
    latencies_s: list[float] = field(default_factory=list)
    unexpected: Counter[str] = field(default_factory=Counter)

    def note(self, now_s: float, took_s: float) -> None:
        """Count an expected answer; the clock starts once it is warm and every connection can have had one."""
        self.answered += 1
        if self.begins_s <= now_s <= self.ends_s:
            self.latencies_s.append(took_s)
        elif self.begins_s < math.inf:
            return
        elif now_s >= self.warm_until_s and self.answered >= self.connections:
            self.begins_s, self.ends_s = now_s, now_s + self.seconds


class Connection(asyncio.Protocol):
    """One connection that asks, waits, and asks again."""

    def __init__(self, tally: Tally, next_request: Callable[[], bytes]) -> None:
        self.tally, self.next_request = tally, next_request
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._read = b""
        self._sent_s = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first time."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is a class of its own
        self._ask(time.perf_counter())

    def data_received(self, data: bytes) -> None:
        """Take an answer, or a part of one."""
        if self._read:
            data = self._read + data
        head = data.find(HEAD_END)
        place = data.find(LENGTH) if head >= 0 else -1
        if place < 0 or len(data) < head + 4 + int(data[place + 16 : data.find(b"\r", place)]):
            self._read = data
            return
        self._read = b""
        now_s, tally = time.perf_counter(), self.tally
        if data[9:12] == tally.expected:
            tally.note(now_s, now_s - self._sent_s)
        else:
            tally.unexpected[data[9:12].decode("latin-1")] += 1
        if now_s >= tally.ends_s:
            self.end()
        else:
            self._ask(now_s)

    def connection_lost(self, error: Exception | None) -> None:
        """Count a connection that the server gave up."""
        if not self.ended.done():
            self.tally.unexpected["connection lost"] += 1
            self.ended.set_result(None)

    def end(self) -> None:
        """Ask no more."""
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.close()

    def _ask(self, now_s: float) -> None:
        self._sent_s = now_s
        assert self._transport is not None
        self._transport.write(self.next_request())


def request_maker(plan: LoadPlan) -> Callable[[], bytes]:
    """Return what makes the next request: another account, and with a body another key."""
    before, _, after = plan.path.partition("{}")
    picks = Picks(range(plan.first_account, plan.first_account + plan.accounts))
    head = (
        f"{after} HTTP/1.1\r\nhost: 127.0.0.1:{plan.port}\r\nauthorization: Bearer {plan.token}\r\n"
    ).encode()
    start = f"{plan.method} {before}".encode()
    if not plan.body:
        tail = head + b"accept: application/json\r\n\r\n"
        return lambda: b"%b%d%b" % (start, picks.next(), tail)
    keys = Keys()
    head += f"content-type: application/json\r\ncontent-length: {len(plan.body)}\r\n".encode()
    tail = HEAD_END + plan.body.encode()
    return lambda: (
        b"%b%d%bidempotency-key: %b%b"
        % (
            start,
            picks.next(),
            head,
            keys.next().encode(),
            tail,
        )
    )


async def run_load(plan: LoadPlan) -> LoadResult:
    """Ask as planned and return what was seen."""
    loop, now_s = asyncio.get_running_loop(), time.perf_counter()
    tally = Tally(str(plan.expected).encode(), now_s + plan.warm_s, plan.seconds, plan.connections)
    next_request = request_maker(plan)
    connections = [
        (
            await loop.create_connection(
                lambda: Connection(tally, next_request), "127.0.0.1", plan.port
            )
        )[1]
        for _ in range(plan.connections)
    ]
    waits_s = plan.warm_s + plan.seconds + GRACE_S
    _, silent = await asyncio.wait([one.ended for one in connections], timeout=waits_s)
    if silent:
        tally.unexpected["no answer"] += len(silent)
    for one in connections:
        one.end()
    seen = sample_of(tally.latencies_s, plan.seconds)
    return LoadResult(**asdict(seen), answered=tally.answered, unexpected=dict(tally.unexpected))


def main() -> None:
    """Read the plan, run it, tell the result."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=LoadPlan)
    result = run_in_loop(run_load(plan), wants_uvloop=True)
    sys.stdout.write(json.dumps(msgspec.to_builtins(result)) + "\n")


if __name__ == "__main__":
    main()
