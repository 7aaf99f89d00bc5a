"""A real database whose statements come one at a time, in an order that follows from a seed.

Several simulated processes share one event loop and one server. Each statement of theirs waits for its turn, is
answered in real time while virtual time stands still, and takes a virtual moment to come back. One that waits for
a row that another holds is put aside until that one ends, so that the others go on: what the server does follows
from the seed, and never from how fast it was.

A process may be killed or stopped between any two statements, as SIGKILL and SIGSTOP would.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from steelyard.runtime.database import STATEMENT_DEADLINE_S
from steelyard.testing.simulated_process import (
    ProcessGone,
    SimulatedProcess,
    Statement,
    SteppedConnection,
    connect_stepped,
)
from steelyard.testing.virtual_time import VirtualTimeLoop

PATIENCE_S = 0.003
"""Real seconds without an answer, after which the server is asked whether a statement waits for a row."""
_ENDING_MS = 10_000
_BLOCKERS = "SELECT pg_blocking_pids($1)"
_CANCEL = "SELECT pg_cancel_backend($1)"
_END = "SELECT pg_terminate_backend($1, $2)"

Observe = Callable[[str, str, tuple[object, ...], object], None]
"""Told of each statement's end: process, SQL, arguments, and its answer or exception."""


@dataclass(slots=True, eq=False)
class Turns:
    """Sends statements one at a time. `chance` chooses among those that wait, and how long answers take.

    Args:
        url: As the product logs in: to ask which statements wait for rows, and to end connections that were lost.
        chance: Of a seed.
        answer_s: Virtual seconds an answer takes, half of it more or less.
        observe: Told of each statement's end.
        rewrite: Changes SQL before it is sent: plants faults.
    """

    url: str
    chance: Random
    answer_s: float = 0.0
    observe: Observe | None = None
    rewrite: Callable[[str], str] | None = None
    processes: list[SimulatedProcess] = field(default_factory=list)
    statements: int = 0
    waits: int = 0
    """Statements that waited for a row."""
    deadlocks: int = 0
    """Statements that waited for one another until the server refused one."""
    _queue: deque[Statement] = field(default_factory=deque)
    _aside: list[Statement] = field(default_factory=list)
    _to_end: list[int] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)
    _stir: asyncio.Event = field(default_factory=asyncio.Event)
    _is_freed: bool = False
    _is_closed: bool = False
    _running: Statement | None = None
    _side: SteppedConnection | None = None
    _serving: "asyncio.Task[None] | None" = None

    def process(self, name: str) -> SimulatedProcess:
        """Begin a process."""
        made = SimulatedProcess(name, self)
        self.processes = [one for one in self.processes if not one.is_dead]
        self.processes.append(made)
        return made

    def is_serving(self, process: SimulatedProcess) -> bool:
        """Whether the server works for a process at this moment."""
        return self._running is not None and self._running.process is process

    @property
    def is_idle(self) -> bool:
        """Whether the server has nothing to do for anybody."""
        return self._running is None

    async def open(self) -> None:
        """Begin to serve."""
        loop = _virtual_loop()
        loop.patience_s, loop.on_slow = PATIENCE_S, self._stir.set
        with loop.waiting_outside():
            self._side = await connect_stepped(self.url)
        self._serving = asyncio.create_task(self._serve(), name="kit.turns")

    async def close(self) -> None:
        """End; processes that are left are dead, and whoever still asks is told so."""
        self._is_closed = True
        running = [] if self._running is None else [self._running]
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        for process in self.processes:
            process.is_dead = True
            for connection in process.connections:
                connection.process = None
                connection.terminate()
        for statement in (*running, *self._aside, *self._queue):
            statement.give_up()
        if self._side is not None:
            await self._side.close()

    def queue(self, statement: Statement) -> None:
        """Let a statement wait for its turn."""
        self._queue.append(statement)
        self._more.set()

    def wake(self) -> None:
        """Look again: a process is gone."""
        self._more.set()

    def bury(self, pid: int) -> None:
        """See to it that the server has ended a lost connection before anything else happens."""
        self._to_end.append(pid)
        self._more.set()

    async def take(
        self,
        process: SimulatedProcess,
        connection: SteppedConnection | None,
        what: tuple[str, tuple[Any, ...]],
        ask: Callable[[], Coroutine[Any, Any, Any]],
    ) -> Any:
        """Wait for a turn, and for the answer.

        Who is cancelled meanwhile is told so when the server has answered: whether a statement was done never depends
        on luck. Only while it waits for a row is it left at once.
        """
        if self._is_closed:
            raise ProcessGone("the simulation is over")
        answer = asyncio.get_running_loop().create_future()
        statement = Statement(process, connection, *what, ask, answer, asyncio.Event())
        self.queue(statement)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            statement.is_given_up = True
            while statement.asking is not None and not statement.settled.is_set():
                try:
                    await statement.settled.wait()
                except asyncio.CancelledError:
                    continue
            raise

    async def _serve(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while True:
                await self._end_lost()
                await self._refuse_overdue()
                await self._go_on_with_aside()
                statement = self._choose()
                if statement is None:
                    break
                await self._let_run(statement)

    def _choose(self) -> Statement | None:
        while self._queue:
            if len(self._queue) > 1:
                self._queue.rotate(-self.chance.randrange(len(self._queue)))
            statement = self._queue.popleft()
            if statement.is_given_up:
                continue
            if statement.process.is_dead or statement.is_lost():
                statement.answer.set_exception(ProcessGone("the connection was lost"))
            elif statement.process.is_stopped:
                statement.process.hold(statement)
            else:
                return statement
        return None

    async def _let_run(self, statement: Statement) -> None:
        """Let the server answer, or put the statement aside because it waits for a row of another."""
        if statement.asking is None:
            statement.asking = asyncio.create_task(statement.ask(), name="kit.statement")
            statement.asking.add_done_callback(lambda _: self._stir.set())
        statement.settled.clear()
        self._running = statement
        try:
            with _virtual_loop().waiting_outside():
                while not statement.asking.done():
                    self._stir.clear()
                    await self._stir.wait()
                    if statement.asking.done() or statement.is_refused:
                        continue
                    if await self._must_wait(statement):
                        self._put_aside(statement)
                        return
        finally:
            self._running = None
        self._finish(statement)

    def _put_aside(self, statement: Statement) -> None:
        self.waits += 1
        self._aside.append(statement)
        statement.settled.set()
        own_s = None if statement.connection is None else statement.connection.lock_wait_s
        wait_s = STATEMENT_DEADLINE_S if own_s is None else own_s
        asyncio.get_running_loop().call_later(wait_s, self._end_wait, statement)

    def _end_wait(self, statement: Statement) -> None:
        if statement not in self._aside or statement.connection is None:
            return
        if statement.connection.lock_wait_s is None:
            statement.connection.terminate()
        else:
            statement.is_refused = True
            self._more.set()

    async def _refuse_overdue(self) -> None:
        """End the waits that took as long as they may, as the server would."""
        for statement in [one for one in self._aside if one.is_refused]:
            self._aside.remove(statement)
            if statement.connection is not None and not statement.is_lost():
                await self._tell_server(_CANCEL, statement.connection.get_server_pid())
            await self._let_run(statement)

    async def _tell_server(self, sql: str, *args: object) -> None:
        assert self._side is not None
        with _virtual_loop().waiting_outside():
            await self._side.execute(sql, *args)

    async def _must_wait(self, statement: Statement) -> bool:
        """Whether it waits for a row of somebody who can go on; if each waits for another, the server will refuse one."""
        left = await self._find_blockers(statement)
        if not left:
            return False
        waiting = {
            one.connection.get_server_pid(): one
            for one in (*self._aside, statement)
            if one.connection is not None and not one.is_lost()
        }
        seen: set[int] = set()
        while left:
            pid = min(left)
            seen.add(pid)
            theirs = await self._find_blockers(waiting[pid]) if pid in waiting else set()
            if not theirs:
                return True  # that one can go on: it has the row it waited for, or waits for none
            left = (left | theirs) - seen
        self.deadlocks += not statement.is_in_deadlock
        statement.is_in_deadlock = True
        return False

    async def _find_blockers(self, statement: Statement) -> set[int]:
        """Return the connections of ours whose rows a statement waits for."""
        if statement.connection is None or self._side is None:
            return set()
        ours = {
            connection.get_server_pid()
            for process in self.processes
            for connection in process.connections
            if not connection.is_closed()
        }
        with _virtual_loop().waiting_outside():
            pid = statement.connection.get_server_pid()
            return ours & set(await self._side.fetchval(_BLOCKERS, pid))

    async def _end_lost(self) -> None:
        while self._to_end and self._side is not None:
            pid = self._to_end.pop(0)
            self._is_freed = True
            await self._tell_server(_END, pid, _ENDING_MS)

    async def _go_on_with_aside(self) -> None:
        """Let those go on whose rows are free now."""
        while self._is_freed:
            self._is_freed = False
            for statement in tuple(self._aside):
                if statement.is_lost() or not await self._must_wait(statement):
                    self._aside.remove(statement)
                    await self._let_run(statement)
                    await self._end_lost()

    def _finish(self, statement: Statement) -> None:
        assert statement.asking is not None
        self.statements += 1
        error = statement.error
        if self.observe is not None:
            told: object = error
            if error is None and statement.connection is not None:
                told = statement.asking.result()
            self.observe(statement.process.name, statement.sql, statement.args, told)
        connection = statement.connection
        if connection is None or connection.is_closed() or not connection.is_in_transaction():
            self._is_freed = True
            if connection is not None:
                connection.lock_wait_s = None
        statement.settled.set()
        statement.process.count()  # before it is told: it may never learn that its COMMIT was done
        if self.answer_s > 0:
            takes_s = self.answer_s * self.chance.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(takes_s, statement.deliver)
        else:
            statement.deliver()


def _virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop), "statements are stepped under virtual time only"
    return loop
