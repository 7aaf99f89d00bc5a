"""Group commit: concurrent money operations of a process become one call, one transaction, one fsync.

There is no timer. A batch is what arrived while the ones before it committed; a lone request is a
batch of one. Two batches are under way at once, each on a connection of its own, so that the database
works on one while this process handles the other; but not two on one account, since the second would wait for the
first one's lock. The queue is bounded and takes tenants in turn. Every request has a deadline of its own; when it
passes the outcome is unknown, never "failed": the same key gives the answer.
"""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg
import structlog

from steelyard.balances.store import find_unlocked, post_batch
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, Overloaded, SteelyardError
from steelyard.core.ids import AccountId, TenantId
from steelyard.ledger.errors import LedgerFailure
from steelyard.ledger.model import Order, Posted
from steelyard.ledger.outcomes import Outcome, columns_of, outcomes_of
from steelyard.ledger.publish import PublishChanges
from steelyard.runtime.database import CONNECTION_LOST, Connection, connect

BATCH_LIMIT = 512
CALL_DEADLINE_S = 5.0
LOCK_WAIT_MS = 250
RECONNECT_PAUSE_S = 0.1
LANES = 2
SHARE_LEAST = 32
"""A second batch is sent beside another only if it is this large: a batch has a price of its own."""
SLOW_LANES = 8
RACE_RETRIES = 3

_log = structlog.get_logger()

# Two processes met on one key; nothing was written, the next try sees what the other one did.
RACES = (asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


@dataclass(slots=True)
class _Request:
    order: Order
    answer: asyncio.Future[Posted]


@dataclass(slots=True, eq=False)
class _Lane:
    """One batch at a time, on one connection."""

    connection: Connection | None = None
    accounts: set[AccountId] = field(default_factory=set)
    """Whose rows the batch under way locks."""

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.terminate()
            self.connection = None


@dataclass(slots=True)
class CommitCounts:
    """What happened so far, for metrics."""

    batches: int = 0
    requests: int = 0
    largest_batch: int = 0
    bisections: int = 0
    races: int = 0
    set_aside: int = 0
    reconnects: int = 0
    unforeseen: int = 0
    posted: int = 0
    replayed: int = 0
    refused: int = 0


@dataclass(slots=True)
class GroupCommit:
    """Takes orders from many callers and commits them together.

    `publish` is told every batch's row and outcomes after its commit; it neither waits nor raises.
    """

    url: str = field(repr=False)
    clock: Clock
    publish: PublishChanges
    queue_limit: int = 10_000
    deadline: timedelta = timedelta(seconds=2.5)
    counts: CommitCounts = field(default_factory=CommitCounts)
    _queues: OrderedDict[TenantId, deque[_Request]] = field(default_factory=OrderedDict)
    _waiting: int = 0
    _unanswered: deque[tuple[datetime, asyncio.Future[Posted]]] = field(default_factory=deque)
    _timer: asyncio.TimerHandle | None = None
    _idle: list[_Lane] = field(default_factory=lambda: [_Lane() for _ in range(LANES)])
    _busy: dict[asyncio.Task[None], _Lane] = field(default_factory=dict)
    _is_called: bool = False
    _batches: int = 0
    _slow: set[asyncio.Task[None]] = field(default_factory=set)
    _closed: bool = False

    @property
    def queue_length(self) -> int:
        """How many requests wait for a batch."""
        return self._waiting

    async def post(self, order: Order) -> Posted:
        """Commit one order with whatever else is waiting.

        Returns:
            What was posted; the earlier outcome where this key was used for the same order before.
        Raises:
            SteelyardError: One of `ledger.errors` and NotFound: refused, nothing was written for it.
            Overloaded: The queue is full; nothing was written.
            DatabaseUnavailable: No answer before the deadline; whether it took effect is unknown.
        """
        if self._closed:
            raise DatabaseUnavailable(doing="shutting down")
        if self._waiting >= self.queue_limit:
            raise Overloaded(queue="the ledger", limit=self.queue_limit)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Posted] = loop.create_future()
        self._enqueue(_Request(order, answer))
        self._unanswered.append((self.clock.now() + self.deadline, answer))
        if self._timer is None:
            self._timer = loop.call_later(self.deadline.total_seconds(), self._give_up, loop)
        self._call_lanes(loop)
        return await answer

    async def close(self, *, drain: timedelta = timedelta(seconds=5)) -> None:
        """Take no more, let what waits finish, close the connection."""
        self._closed = True
        until = self.clock.now() + drain
        while (tasks := [*self._busy, *self._slow]) and (
            left := until - self.clock.now()
        ) > timedelta(0):
            await asyncio.wait(
                tasks, timeout=left.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
            await asyncio.sleep(0)  # what waits is sent by the lane that came free
        for task in (*self._busy, *self._slow):
            task.cancel()
        for lane in (*self._idle, *self._busy.values()):
            lane.drop()
        if self._timer is not None:
            self._timer.cancel()
        for _, answer in self._unanswered:
            if not answer.done():
                answer.set_exception(DatabaseUnavailable(doing="shutting down"))
        self._unanswered.clear()

    def _give_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer those whose time is over. One timer serves all: deadlines are alike, so the oldest is the next."""
        self._timer = None
        now = self.clock.now()
        while self._unanswered:
            due, answer = self._unanswered[0]
            if not answer.done():
                if due > now:
                    self._timer = loop.call_later((due - now).total_seconds(), self._give_up, loop)
                    return
                answer.set_exception(DatabaseUnavailable(doing="committing"))
            self._unanswered.popleft()

    def _forget_answered(self) -> None:
        """Let go of what is answered, the oldest first: kept until its deadline it would be thousands of objects to collect."""
        while self._unanswered and self._unanswered[0][1].done():
            self._unanswered.popleft()

    def _enqueue(self, request: _Request) -> None:
        queue = self._queues.get(request.order.tenant)
        if queue is None:
            queue = self._queues[request.order.tenant] = deque()
        queue.append(request)
        self._waiting += 1

    def _call_lanes(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look for a free lane once all callers that are awake have asked."""
        if not self._is_called:
            self._is_called = True
            loop.call_soon(self._send_batches)

    def _send_batches(self) -> None:
        """Share what waits between the free lanes."""
        self._is_called = False
        while self._idle and self._waiting and (not self._busy or self._is_worth_a_second()):
            share = max(SHARE_LEAST, -(-self._waiting // len(self._idle)))
            lane = self._idle.pop()
            batch = self._take(share, lane.accounts)
            if not batch:
                self._idle.append(lane)
                continue
            task = asyncio.create_task(self._serve(lane, batch), name="group commit")
            self._busy[task] = lane
            task.add_done_callback(self._come_free)

    def _is_worth_a_second(self) -> bool:
        """Whether a batch beside those under way is large enough, and does not begin by waiting for a lock of theirs."""
        if self._waiting < SHARE_LEAST:
            return False
        account = next(iter(self._queues.values()))[0].order.account
        return not any(account in lane.accounts for lane in self._busy.values())

    def _come_free(self, task: asyncio.Task[None]) -> None:
        lane = self._busy.pop(task)
        lane.accounts.clear()
        self._idle.append(lane)
        if self._waiting and not task.cancelled():
            self._call_lanes(task.get_loop())

    def _take(self, share: int, accounts: set[AccountId]) -> list[_Request]:
        """Take the next batch, one request of each tenant in turn; callers who gave up are passed over.

        It is of `share` requests, and those after them that are on the same accounts. Fills `accounts`.
        """
        batch: list[_Request] = []
        accounts.clear()
        while self._queues and len(batch) < BATCH_LIMIT:
            tenant, queue = next(iter(self._queues.items()))
            account = queue[0].order.account
            if len(batch) >= share and account not in accounts:
                break
            request = queue.popleft()
            self._waiting -= 1
            if not request.answer.done():
                batch.append(request)
                accounts.add(account)
            if not queue:
                del self._queues[tenant]
            elif len(self._queues) > 1:
                self._queues.move_to_end(tenant)
        return batch

    async def _serve(self, lane: _Lane, batch: list[_Request]) -> None:
        try:
            await self._commit(lane, batch)
        # The edge of a background task: without this its callers would wait for their deadline.
        except Exception as error:
            lane.drop()
            self.counts.unforeseen += 1
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(LedgerFailure(reason=type(error).__name__))
            _log.error("ledger.unforeseen", exc_info=error)

    async def _commit(self, lane: _Lane, batch: list[_Request]) -> None:
        """Commit one batch, whatever happens to the connection, until its callers have given up."""
        races = 0
        while True:
            batch = [request for request in batch if not request.answer.done()]
            if not batch:
                return
            try:
                async with asyncio.timeout(CALL_DEADLINE_S):
                    connection = await self._connected(lane)
                    await self._call(connection, batch)
            except asyncpg.LockNotAvailableError:
                batch = await self._set_aside_locked(lane, batch)
            except RACES:
                self.counts.races += 1
                races += 1
                if races > RACE_RETRIES:
                    await self._bisect(lane, batch, reason="the same key is being used elsewhere")
                    return
            except CONNECTION_LOST:
                self.counts.reconnects += 1
                lane.drop()
                await asyncio.sleep(RECONNECT_PAUSE_S)
            except asyncpg.PostgresError as error:
                reason = f"{type(error).__name__} {error.sqlstate}"
                await self._bisect(lane, batch, reason=reason)
                return
            else:
                return

    async def _call(self, connection: Connection, batch: list[_Request]) -> None:
        orders = [request.order for request in batch]
        now = self.clock.now()
        expires_at = [
            None if o.expires_in_s is None else now + timedelta(seconds=o.expires_in_s)
            for o in orders
        ]
        self._batches += 1
        number = self._batches
        self.publish.order.begin(number)
        try:
            row = await post_batch(connection, now, columns_of(orders, expires_at))
            outcomes = outcomes_of(orders, row, now)
            self._count(outcomes)
            for request, outcome in zip(batch, outcomes, strict=True):
                if request.answer.done():
                    continue
                if isinstance(outcome, SteelyardError):
                    request.answer.set_exception(outcome)
                else:
                    request.answer.set_result(outcome)
            self._forget_answered()
            self.publish(orders, outcomes, row)
        finally:
            self.publish.order.end(number)

    def _count(self, outcomes: list[Outcome]) -> None:
        counts = self.counts
        counts.batches += 1
        counts.requests += len(outcomes)
        counts.largest_batch = max(counts.largest_batch, len(outcomes))
        for outcome in outcomes:
            if isinstance(outcome, SteelyardError):
                counts.refused += 1
            elif outcome.replayed:
                counts.replayed += 1
            else:
                counts.posted += 1

    async def _bisect(self, lane: _Lane, batch: list[_Request], *, reason: str) -> None:
        """Find the one order that makes a batch fail, so that it fails alone."""
        if len(batch) == 1:
            if not batch[0].answer.done():
                batch[0].answer.set_exception(LedgerFailure(reason=reason))
            return
        self.counts.bisections += 1
        middle = len(batch) // 2
        await self._commit(lane, batch[:middle])
        await self._commit(lane, batch[middle:])

    async def _set_aside_locked(self, lane: _Lane, batch: list[_Request]) -> list[_Request]:
        """Move requests whose account somebody's own transaction holds to a slow lane; return the others."""
        connection = await self._connected(lane)
        places = [
            (r.order.tenant, a)
            for r in batch
            for a in (r.order.account, r.order.counter)
            if a is not None
        ]
        free = await find_unlocked(connection, places)
        ready = [
            r
            for r in batch
            if r.order.account in free and (r.order.counter is None or r.order.counter in free)
        ]
        aside = [r for r in batch if r not in ready]
        if not aside:
            return ready
        self.counts.set_aside += len(aside)
        if len(self._slow) >= SLOW_LANES:
            for request in aside:
                if not request.answer.done():
                    request.answer.set_exception(
                        Overloaded(queue="locked accounts", limit=SLOW_LANES)
                    )
        else:
            task = asyncio.create_task(self._commit_slowly(aside), name="slow commit")
            self._slow.add(task)
            task.add_done_callback(self._slow.discard)
        return ready

    async def _commit_slowly(self, batch: list[_Request]) -> None:
        """Wait for the lock on a connection of its own, as long as the callers do."""
        try:
            connection = await connect(self.url)
            try:
                async with asyncio.timeout(self.deadline.total_seconds()):
                    await self._call(connection, batch)
            finally:
                connection.terminate()
        except (asyncpg.PostgresError, *CONNECTION_LOST):  # type: ignore[misc]
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(
                        DatabaseUnavailable(doing="waiting for a locked account")
                    )

    async def _connected(self, lane: _Lane) -> Connection:
        if lane.connection is None or lane.connection.is_closed():
            options = (("lock_timeout", str(LOCK_WAIT_MS)),)
            lane.connection = await connect(self.url, options=options)
        return lane.connection
