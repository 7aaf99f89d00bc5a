"""A process of the product as a simulation has it: its connections, and whether it runs, was stopped or was killed."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncpg

from steelyard.runtime.database import Database
from steelyard.testing.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

LIMIT_LOCK_WAITS = "set_config('lock_timeout', $1, true)"
IDLE_IN_TRANSACTION_S = 60.0
"""Virtual seconds after which a transaction of a stopped process is ended, as our server would."""


class TurnTaker(Protocol):
    """Sends statements in turns, and rewrites them where faults are planted."""

    rewrite: Callable[[str], str] | None

    def is_serving(self, process: "SimulatedProcess") -> bool:
        """Whether the server works for a process at this moment."""
        ...

    def queue(self, statement: "Statement") -> None:
        """Let a statement wait for its turn."""
        ...

    def wake(self) -> None:
        """Look again: a process is gone."""
        ...

    def bury(self, pid: int) -> None:
        """See to it that the server has ended a lost connection before anything else happens."""
        ...

    async def take(
        self,
        process: "SimulatedProcess",
        connection: "SteppedConnection | None",
        what: tuple[str, tuple[Any, ...]],
        ask: Callable[[], Coroutine[Any, Any, Any]],
    ) -> Any:
        """Wait for a turn, and for the answer."""
        ...


class ProcessGone(asyncpg.ConnectionDoesNotExistError):
    """The simulated process was killed, or the server ended its connection."""


class SteppedConnection(_Connection):
    """A connection whose statements wait for their turns."""

    process: "SimulatedProcess | None" = None
    lock_wait_s: float | None = None
    """Virtual seconds a statement of the open transaction waits for a row; None: to its deadline."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Run a statement in its turn."""
        ask = super().execute
        told = await self._step(query, args, lambda sql, args: ask(sql, *args, timeout=timeout))
        return cast(str, told)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """Run a query in its turn."""
        ask = super().fetch
        return await self._step(query, args, lambda sql, args: ask(sql, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """Run a query in its turn."""
        ask = super().fetchrow
        return await self._step(query, args, lambda sql, args: ask(sql, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Run a query in its turn."""
        ask = super().fetchval
        return await self._step(query, args, lambda sql, args: ask(sql, *args, **options))

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Close; time stands still meanwhile."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.waiting_outside():
            await super().close(timeout=timeout)

    def terminate(self) -> None:
        """Lose the connection; the server has ended its transaction before the next statement comes."""
        pid = None if self.is_closed() else self.get_server_pid()
        super().terminate()
        if pid is not None and self.process is not None:
            self.process.turns.bury(pid)

    async def _step(
        self,
        sql: str,
        args: tuple[Any, ...],
        ask: Callable[[str, tuple[Any, ...]], Coroutine[Any, Any, Any]],
    ) -> Any:
        if self.process is None:  # the kit's own
            return await ask(sql, args)
        turns = self.process.turns
        sent = sql if turns.rewrite is None else turns.rewrite(sql)
        if LIMIT_LOCK_WAITS in sql:  # the server's clock is real: the wait is ours to end
            self.lock_wait_s = float(str(args[0]).removesuffix("ms")) / 1000
            sent, args = sent.replace("$1", "$1 || '0'"), ("",)
        return await turns.take(self.process, self, (sql, args), lambda: ask(sent, args))


@dataclass(slots=True, eq=False)
class Statement:
    """What is asked of the server, from the call to its answer."""

    process: "SimulatedProcess"
    connection: SteppedConnection | None
    sql: str
    args: tuple[Any, ...]
    ask: Callable[[], Coroutine[Any, Any, Any]]
    answer: "asyncio.Future[Any]"
    settled: asyncio.Event
    """It is answered, or waits for a row."""
    asking: "asyncio.Task[Any] | None" = None
    is_given_up: bool = False
    is_in_deadlock: bool = False
    is_refused: bool = False
    """It waited for a row as long as it may."""

    def is_lost(self) -> bool:
        return self.connection is not None and self.connection.is_closed()

    @property
    def error(self) -> BaseException | None:
        """How the server refused it."""
        assert self.asking is not None
        error = self.asking.exception()
        if self.is_refused and isinstance(error, asyncpg.QueryCanceledError):
            return asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
        return error

    def give_up(self) -> None:
        """Tell who asked that no answer will come."""
        if self.asking is not None:
            self.asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())
        if not self.answer.done() and not self.is_given_up:
            self.answer.set_exception(ProcessGone("the simulation is over"))
        self.settled.set()

    def deliver(self) -> None:
        """Hand over what the server said, unless nobody is there to hear it."""
        assert self.asking is not None
        error = self.error
        if self.is_given_up:
            return
        if self.process.is_dead:
            self.answer.set_exception(ProcessGone("the process was killed"))
        elif self.process.is_stopped:
            self.process.hold(self)
        elif error is not None:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(self.asking.result())


@dataclass(slots=True, eq=False)
class SimulatedProcess:
    """One process of the product: its connections, and whether it runs."""

    name: str
    turns: TurnTaker
    is_dead: bool = False
    is_stopped: bool = False
    on_death: Callable[[], None] = lambda: None
    """Told when it dies: to cancel its tasks."""
    connections: list[SteppedConnection] = field(default_factory=list)
    _held: list[Statement] = field(default_factory=list)
    _ending: list[asyncio.TimerHandle] = field(default_factory=list)
    _left: int | None = None
    _then: Callable[[], None] = lambda: None

    async def open_database(self, url: str, *, size: int) -> Database:
        """Open a pool of this process's own."""
        database = Database(url, size, self.connect)
        await database.fetchval("SELECT 1")
        return database

    async def connect(self, url: str) -> SteppedConnection:
        """Open one connection, in its turn."""

        async def ask() -> SteppedConnection:
            made = await connect_stepped(url)
            made.process = self
            self.connections = [one for one in self.connections if not one.is_closed()]
            self.connections.append(made)
            return made

        return cast(SteppedConnection, await self.turns.take(self, None, ("connect", ()), ask))

    def after(self, statements: int, then: Callable[[], None]) -> None:
        """Do `then` (`kill`, `stop`) when so many more statements of this process have been answered."""
        self._left, self._then = statements, then

    def kill(self) -> None:
        """End as by SIGKILL: nothing more of it is written, and the server notices at once."""
        if self.is_dead:
            return
        if self.turns.is_serving(self):
            self.after(
                1, self.kill
            )  # the server is done with it first: what it did does not depend on luck
            return
        self.is_dead = True
        self.resume()
        for connection in self.connections:
            connection.terminate()
        self.turns.wake()
        self.on_death()

    def stop(self) -> None:
        """Do nothing more, as by SIGSTOP, until resumed; transactions it has open end after 60 s."""
        if self.is_stopped or self.is_dead:
            return
        self.is_stopped = True
        loop = asyncio.get_running_loop()
        for connection in self.connections:
            if not connection.is_closed() and connection.is_in_transaction():
                self._ending.append(loop.call_later(IDLE_IN_TRANSACTION_S, connection.terminate))

    def resume(self) -> None:
        """Go on."""
        self.is_stopped = False
        for timer in self._ending:
            timer.cancel()
        self._ending.clear()
        held, self._held = self._held, []
        for statement in held:
            if statement.asking is None:
                self.turns.queue(statement)
            else:
                statement.deliver()

    def hold(self, statement: Statement) -> None:
        """Keep what it would have sent, or heard."""
        self._held.append(statement)

    def count(self) -> None:
        """Count an answered statement; after the last one that was granted, do what was said."""
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._left = None
                self._then()


async def connect_stepped(url: str) -> SteppedConnection:
    """Open a connection with the product's settings; its deadlines are the kit's, in virtual time."""
    return await asyncpg.connect(
        url,
        connection_class=SteppedConnection,
        server_settings={
            "application_name": "steelyard",
            "timezone": "UTC",
            "jit": "off",
            "synchronous_commit": "off",  # nobody cuts the power of a simulation
            "idle_in_transaction_session_timeout": "0",
        },
    )
