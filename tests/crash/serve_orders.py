"""A process around the ledger for the crash proof: orders and reads over a Unix socket, JSON lines, many at once.

What is under test is the product's own `GroupCommit` and `BalanceReader`. A planted fault replaces one of these two
parts by a broken one of `tests.crash.broken_parts`; the product knows nothing of it.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from steelyard.balances.read import BalanceReader
from steelyard.core.errors import DatabaseUnavailable, SteelyardError
from steelyard.core.ids import DEFAULT_TENANT, AccountId
from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.model import Details, Kind, Order, Posted
from steelyard.ledger.publish import PublishChanges
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.database import Database
from tests.crash.history import Asked, Done, Outcome, Refused, Unknown

LINE_LIMIT = 1_000_000


class Call(Struct):
    """One line to the process: an order, or the account to read."""

    number: int
    order: Asked | None = None
    account: int | None = None


class Reply(Struct):
    """One line from the process."""

    number: int
    outcome: Outcome | None = None
    seq: int = 0
    posted: int = 0
    held: int = 0


def order_of(asked: Asked) -> Order:
    """Return the ledger's order for what a client asked."""
    return Order(
        tenant=DEFAULT_TENANT,
        kind=Kind(asked.kind),
        account=AccountId(asked.account),
        amount=asked.amount,
        key=asked.key,
        counter=None if asked.counter is None else AccountId(asked.counter),
        target=asked.target,
        details=Details(description=asked.description).to_json(),
    )


def done_of(posted: Posted) -> Done:
    """Return what is told of a posted order."""
    return Done(
        posted.seq,
        posted.amount,
        posted.held_amount,
        posted.balance_after,
        posted.held_after,
        posted.replayed,
    )


class OrderServer:
    """Answers lines, each in a task of its own."""

    def __init__(self, commit: GroupCommit, reader: BalanceReader) -> None:
        self.commit, self.reader = commit, reader
        self._decode = msgspec.json.Decoder(Call).decode
        self._encode = msgspec.json.Encoder().encode
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends."""
        while line := await incoming.readline():
            task = asyncio.create_task(self._answer(self._decode(line), outgoing))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: Call, outgoing: asyncio.StreamWriter) -> None:
        if call.order is not None:
            reply = Reply(call.number, await self._post(call.order))
        else:
            reply = await self._read(call)
        if not outgoing.is_closing():
            outgoing.write(self._encode(reply) + b"\n")

    async def _post(self, asked: Asked) -> Outcome:
        try:
            return done_of(await self.commit.post(order_of(asked)))
        except DatabaseUnavailable as error:
            return Unknown(error.code)
        except SteelyardError as error:
            return Refused(error.code)

    async def _read(self, call: Call) -> Reply:
        try:
            balance = await self.reader.read(DEFAULT_TENANT, AccountId(call.account or 0))
        except SteelyardError as error:
            return Reply(call.number, Unknown(error.code))
        return Reply(call.number, None, balance.seq, balance.posted, balance.held)


MakeParts = Callable[[str, Database], Awaitable[tuple[GroupCommit, BalanceReader]]]


async def make_parts(url: str, database: Database) -> tuple[GroupCommit, BalanceReader]:
    """Return the product's own parts, as the product puts them together."""
    clock, bus = SystemClock(), InProcessBus()
    cache = InProcessCache(clock)
    commit = GroupCommit(url, clock, PublishChanges(bus, cache, clock))
    return commit, BalanceReader(database, cache, clock)


async def run(path: str, url: str, fault: str) -> None:
    """Serve at a Unix socket until the process is ended."""
    make: MakeParts = make_parts
    if fault:
        from tests.crash.broken_parts import BROKEN_PARTS

        make = BROKEN_PARTS[fault]
    commit, reader = await make(url, Database(url, 4))
    server = OrderServer(commit, reader)
    async with await asyncio.start_unix_server(server.serve, path, limit=LINE_LIMIT) as listening:
        await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:4]))
