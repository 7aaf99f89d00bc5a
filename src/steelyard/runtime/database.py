"""The database as the running product sees it: a fair pool and the unit of work.

The pool hands connections over first come, first served, and sends no reset query when one comes
back. That is safe because nothing here sets session state: the tenant is set by
`set_config(…, true)` / `SET LOCAL` only and ends with the transaction. A test asks after every
kind of request.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import TenantId

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

CONNECT_DEADLINE_S = 2.0
ACQUIRE_DEADLINE_S = 2.0
STATEMENT_DEADLINE_S = 30.0
IDLE_IN_UNIT_OF_WORK_S = 10.0
"""Longest the server waits for the next statement of a unit of work: a process that sleeps loses it, with all its locks."""

# What the driver raises when the server went away, is starting or stopping, or never was there.
CONNECTION_LOST: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server said goodbye while the connection was idle
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process slept within a unit of work
)


@dataclass(slots=True)
class UnitOfWork:
    """One open database transaction of one tenant. Whoever opened it leaves it; nothing below commits."""

    connection: Connection
    tenant: TenantId

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run one query and return its rows."""
        return await self.connection.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: object) -> asyncpg.Record | None:
        """Run one query and return its first row."""
        return await self.connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Run one query and return the first column of its first row."""
        return await self.connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: object) -> str:
        """Run one statement and return its command tag."""
        return await self.connection.execute(sql, *args)


@dataclass(slots=True)
class Database:
    """A bounded pool of connections that log in as the application's role."""

    url: str = field(repr=False)
    size: int = 16
    connector: Callable[[str], Awaitable[Connection]] | None = field(default=None, repr=False)
    """Opens a connection instead of `connect`; for a kit that runs the product under virtual time."""
    _idle: deque[Connection] = field(default_factory=deque)
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    _out: int = 0
    _closed: bool = False

    @classmethod
    async def open(cls, url: str, *, pool_size: int = 16) -> "Database":
        """Open the pool and prove that the database answers.

        Raises:
            DatabaseUnavailable: It does not.
        """
        database = cls(url, pool_size)
        async with database.connection() as connection:
            await connection.fetchval("SELECT 1")
        return database

    async def close(self) -> None:
        """Close every idle connection; those in use close when they come back."""
        self._closed = True
        while self._idle:
            await self._idle.popleft().close(timeout=2)

    @property
    def in_use(self) -> int:
        """How many connections are out."""
        return self._out

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection without a transaction or tenant: for functions that take the tenant themselves.

        Raises:
            DatabaseUnavailable: None came free in time, or the connection was lost on the way.
        """
        connection = await self._take()
        try:
            yield connection
        except CONNECTION_LOST as error:
            connection.terminate()
            raise DatabaseUnavailable(doing="running a query") from error
        except asyncio.CancelledError:
            connection.terminate()  # a query may still be running on it
            raise
        finally:
            self._give_back(connection)

    @asynccontextmanager
    async def unit_of_work(self, tenant: TenantId) -> AsyncIterator[UnitOfWork]:
        """Open a READ COMMITTED transaction of one tenant; commit on leaving, roll back on an exception.

        The tenant travels in one message with BEGIN. Tenant ids hold no quotes: `parse_tenant_id` says so.
        """
        async with self.connection() as connection:
            await connection.execute(f"BEGIN; SET LOCAL steelyard.tenant = '{quoted(tenant)}'")
            try:
                yield UnitOfWork(connection, tenant)
            except BaseException:
                if not connection.is_closed():
                    await asyncio.shield(connection.execute("ROLLBACK"))
                raise
            await connection.execute("COMMIT")

    async def fetch(self, sql: str, *args: object) -> list[asyncpg.Record]:
        """Run one query outside any unit of work and return its rows."""
        async with self.connection() as connection:
            return await connection.fetch(sql, *args)

    async def fetchval(self, sql: str, *args: object) -> Any:
        """Run one query outside any unit of work and return one value."""
        async with self.connection() as connection:
            return await connection.fetchval(sql, *args)

    async def _take(self) -> Connection:
        if self._closed:
            raise DatabaseUnavailable(doing="shutting down")
        if self._out >= self.size:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await asyncio.wait_for(turn, ACQUIRE_DEADLINE_S)
            except BaseException as error:
                if turn.done() and not turn.cancelled():
                    self._pass_turn()  # it was our turn already; the next one takes it
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                if isinstance(error, TimeoutError):
                    raise DatabaseUnavailable(doing="waiting for a free connection") from error
                raise
        else:
            self._out += 1
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        try:
            return await (self.connector or _connect_for_units)(self.url)
        except BaseException as error:
            self._pass_turn()
            if isinstance(error, CONNECTION_LOST):
                raise DatabaseUnavailable(doing="connecting") from error
            raise

    def _give_back(self, connection: Connection) -> None:
        if not connection.is_closed() and connection.is_in_transaction():
            connection.terminate()  # left open by a lost ROLLBACK; never lend it again
        if self._closed:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append(connection)
        self._pass_turn()

    def _pass_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._out -= 1


async def connect(url: str, *, options: Sequence[tuple[str, str]] = ()) -> Connection:
    """Open one connection with the product's settings, outside any pool."""
    settings = {"application_name": "steelyard", "timezone": "UTC", "jit": "off", **dict(options)}
    return await asyncpg.connect(
        url,
        timeout=CONNECT_DEADLINE_S,
        command_timeout=STATEMENT_DEADLINE_S,
        server_settings=settings,
    )


async def _connect_for_units(url: str) -> Connection:
    idle_ms = str(round(IDLE_IN_UNIT_OF_WORK_S * 1000))
    return await connect(url, options=(("idle_in_transaction_session_timeout", idle_ms),))


def quoted(tenant: TenantId) -> str:
    """Return a tenant id for use inside a quoted SQL literal.

    Raises:
        ValueError: It holds anything but a-z, 0-9 and '-'; it did not come through `parse_tenant_id`.
    """
    if not tenant or not all(c.isascii() and (c.isalnum() or c == "-") for c in tenant):
        raise ValueError(f"{tenant!r} is not a tenant id")
    return tenant
