"""The engine on PostgreSQL: procrastinate's tables and client, in the schema `steelyard_jobs`.

Its own worker is not used: when the database goes away that one waits for every job under way before it looks again.
Here what is under way goes on, and tickets are fetched again as soon as the database answers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

import psycopg
import structlog
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.psycopg_connector import PsycopgConnector
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId
from steelyard.jobs.errors import JobEngineUnusable
from steelyard.jobs.port import Deliver, Ticket, TicketCounts
from steelyard.jobs.store import tickets
from steelyard.runtime.database import CONNECT_DEADLINE_S, Database

TASK: Final = "steelyard.run"
ROOM: Final = 1_000
BEAT_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 1.0
"""Where no notification comes through."""
PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
ANSWER_DEADLINE_S: Final = 10.0
CANCELLED_TIMES: Final = 3
CANCEL_PAUSE_S: Final = 1.0
LOST: Final = (ConnectorException, psycopg.Error, OSError, TimeoutError)

T = TypeVar("T")

_log = structlog.get_logger()


@dataclass(slots=True)
class ProcrastinateEngine:
    """Tickets in PostgreSQL, for all processes."""

    database: Database
    _url: str = field(repr=False)
    _pool: AsyncConnectionPool
    _manager: JobManager
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _active: set[asyncio.Task[None]] = field(default_factory=set)
    _is_stopping: bool = False

    @classmethod
    async def open(cls, database: Database, url: str) -> "ProcrastinateEngine":
        """Open its connections: at most 4 and one that listens, beside those of `database`.

        Raises:
            JobEngineUnusable: The address is none that libpq reads.
            DatabaseUnavailable: The database does not answer.
        """
        try:
            make_conninfo(url)
        except psycopg.ProgrammingError:  # what it says may quote the password
            raise JobEngineUnusable(
                problem="libpq cannot read STEELYARD_DATABASE_URL as an address"
            ) from None
        pool, manager = await _open_pool(url)
        engine = cls(database, url, pool, manager)
        async with _reached("opening the engine of jobs"):
            await pool.wait(timeout=CONNECT_DEADLINE_S)
        return engine

    async def enqueue(self, ticket: Ticket) -> bool:
        """As the port says."""
        async with _reached("queueing a job"):
            try:
                await self._manager.defer_job_async(_job_of(ticket))
            except AlreadyEnqueued:
                return False
        return True

    async def enqueue_many(self, wanted: Sequence[Ticket]) -> int:
        """As the port says."""
        by_name = {_name_of(ticket): ticket for ticket in wanted}
        for name in await tickets.list_waiting_tickets(self.database, list(by_name)):
            del by_name[name]
        if not by_name:
            return 0
        async with _reached("queueing jobs"):
            try:
                jobs = [_job_of(ticket) for ticket in by_name.values()]
                await self._manager.batch_defer_jobs_async(jobs)
            except AlreadyEnqueued:  # another process queued one at this very moment
                return sum([await self.enqueue(ticket) for ticket in by_name.values()])
        return len(by_name)

    async def cancel(self, tenant: TenantId, run: int) -> bool:
        """As the port says."""
        return await tickets.cancel_ticket(self.database, f"{tenant}/{run}")

    async def room(self) -> int:
        """As the port says."""
        return ROOM - await tickets.count_waiting_tickets(self.database, most=ROOM)

    async def work(self, kinds: Sequence[str], deliver: Deliver, *, slots: int) -> None:
        """As the port says."""
        self._is_stopping = False
        free = asyncio.Semaphore(slots)
        failures = 0
        while not self._is_stopping:
            try:
                await self._work_connected(kinds, deliver, free)
                failures = 0
            except LOST as error:
                failures += 1
                if failures == 1:
                    _log.warning("jobs.engine_waiting", reason=_reason_of(error))
                pause_s = min(PAUSE_MIN_S * 2 ** min(failures, 10), PAUSE_MAX_S)
                await self._wait(pause_s)
                await self._reopen()
        if self._active:
            await asyncio.wait(set(self._active))

    async def stop(self) -> None:
        """As the port says."""
        self._is_stopping = True
        self._changed.set()

    async def counts(self) -> Mapping[str, TicketCounts]:
        """As the port says."""
        return await tickets.count_tickets(self.database)

    async def rescue(self, *, stalled: timedelta) -> int:
        """As the port says."""
        return await tickets.forget_stalled_tickets(self.database, stalled=stalled)

    async def delete_old(self, *, older_than: timedelta, newest_kept: int) -> int:
        """As the port says."""
        return await tickets.delete_old_tickets(
            self.database, older_than=older_than, newest_kept=newest_kept
        )

    async def close(self) -> None:
        """As the port says."""
        await self.stop()
        await _close_pool(self._pool)

    async def _work_connected(
        self, kinds: Sequence[str], deliver: Deliver, free: asyncio.Semaphore
    ) -> None:
        """Work until `stop`, or until the database is lost."""
        worker = await _within(self._manager.register_worker())
        sides = [
            asyncio.create_task(self._beat(worker), name="jobs.engine_beat"),
            asyncio.create_task(self._listen(kinds), name="jobs.engine_listen"),
        ]
        main = asyncio.create_task(
            self._fetch(kinds, deliver, free, worker), name="jobs.engine_fetch"
        )
        try:
            done, _ = await asyncio.wait({main, *sides}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end([main, *sides])
        for task in done:
            task.result()
        if not self._active:
            with contextlib.suppress(*LOST):
                await _within(self._manager.unregister_worker(worker))

    async def _reopen(self) -> None:
        """Take new connections: what a lost one still waits for may never come."""
        lost = self._pool
        self._pool, self._manager = await _open_pool(self._url)
        await _close_pool(lost)

    async def _beat(self, worker: int) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            await _within(self._manager.update_heartbeat(worker))

    async def _listen(self, kinds: Sequence[str]) -> None:
        async def wake(*, channel: str, notification: Any) -> None:  # noqa: ARG001 - as it is called
            self._changed.set()

        await self._manager.listen_for_jobs(on_notification=wake, queues=list(kinds))

    async def _fetch(
        self, kinds: Sequence[str], deliver: Deliver, free: asyncio.Semaphore, worker: int
    ) -> None:
        while not self._is_stopping:
            self._changed.clear()
            if free.locked():
                await self._wait(LOOK_EVERY_S)
                continue
            job = await _within(self._manager.fetch_job(queues=list(kinds), worker_id=worker))
            if job is None:
                await self._wait(LOOK_EVERY_S)
                continue
            await free.acquire()  # at once: nobody else takes one
            task = asyncio.create_task(self._carry(job, deliver, free), name="jobs.carry")
            self._active.add(task)
            task.add_done_callback(self._active.discard)

    async def _carry(self, job: Job, deliver: Deliver, free: asyncio.Semaphore) -> None:
        tenant, _, run = str(job.queueing_lock).partition("/")
        ticket = Ticket(TenantId(tenant), int(run), job.queue, job.priority)
        try:
            await deliver(ticket)
        finally:
            free.release()
            self._changed.set()
        assert job.id is not None
        # Where this fails the row is left: its worker falls silent and it is forgotten.
        with contextlib.suppress(*LOST):
            await _within(
                self._manager.finish_job_by_id_async(
                    job_id=job.id, status=Status.SUCCEEDED, delete_job=False
                )
            )

    async def _wait(self, longest_s: float) -> None:
        if not self._is_stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    await self._changed.wait()


async def _open_pool(url: str) -> tuple[AsyncConnectionPool, JobManager]:
    """Begin to open connections; who needs one waits for it."""
    pool = AsyncConnectionPool(
        url,
        kwargs={
            "options": "-c search_path=steelyard_jobs -c jit=off",
            "application_name": "steelyard jobs",
            "connect_timeout": int(CONNECT_DEADLINE_S),
        },
        min_size=1,
        max_size=4,
        timeout=CONNECT_DEADLINE_S,
        check=AsyncConnectionPool.check_connection,
        open=False,
    )
    await pool.open(wait=False)
    connector = PsycopgConnector()
    await connector.open_async(pool)
    return pool, JobManager(connector)


async def _close_pool(pool: AsyncConnectionPool) -> None:
    with contextlib.suppress(*LOST):
        await _within(pool.close(timeout=CONNECT_DEADLINE_S))


async def _within(act: Coroutine[Any, Any, T]) -> T:
    """Wait for an answer of the database, but not for ever: one whose connection was lost may not even end when cancelled.

    Raises:
        TimeoutError: None came.
    """
    task = asyncio.create_task(act)
    try:
        await asyncio.wait({task}, timeout=ANSWER_DEADLINE_S)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)
    if not task.done():
        raise TimeoutError
    return task.result()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks; leave one that does not end though it is cancelled again and again."""
    left = set(tasks)
    for _ in range(CANCELLED_TIMES):
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_PAUSE_S)
        if not left:
            break
    for task in tasks:
        task.add_done_callback(_forget)


def _forget(task: "asyncio.Task[Any]") -> None:
    """Take the error of a task that nobody waits for."""
    if not task.cancelled():
        task.exception()


def _name_of(ticket: Ticket) -> str:
    return f"{ticket.tenant}/{ticket.run}"


def _job_of(ticket: Ticket) -> Job:
    return Job(
        id=None,
        queue=ticket.kind,
        lock=None,
        queueing_lock=_name_of(ticket),
        task_name=TASK,
        priority=ticket.priority,
    )


def _reason_of(error: BaseException) -> str:
    """Return the first line of what the database said; psycopg puts no address into it."""
    said = str(error.__cause__ or error).strip()
    return (said.splitlines() or [type(error).__name__])[0][:200]


@asynccontextmanager
async def _reached(doing: str) -> AsyncIterator[None]:
    """Tell the loss of the database in our own words."""
    try:
        yield
    except LOST as error:
        raise DatabaseUnavailable(doing=doing) from error
