"""Time that passes only when there is nothing else to do, so that a day takes as long as its work.

An event loop whose `time()` is virtual. Tasks run one after the other as on any loop; when none can go on, time
jumps to the next timer. While something outside is awaited (an answer of a real database, a thread) time stands
still, so that no deadline passes because a query was on its way. See docs/explanation/virtual-time.md.
"""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

Events = list[tuple[selectors.SelectorKey, int]]
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class NothingLeftToDo(RuntimeError):
    """Every task waits, and neither a timer nor anything outside can wake one: it would wait for ever."""

    def __init__(self, waiting: list[str]) -> None:
        shown = ", ".join(waiting[:20])
        super().__init__(
            f"no task can go on and no timer is set; {len(waiting)} wait for ever: {shown}"
        )


class _Timer(asyncio.TimerHandle):
    """A timer that goes before those set after it for the same moment, whatever shape the heap has."""

    __slots__ = ("_place",)

    def __init__(self, when: float, place: int, *details: Any) -> None:
        super().__init__(when, *details)
        self._place = when, place

    def __lt__(self, other: Any) -> bool:
        return bool(self._place < other._place)


class _Selector(selectors.DefaultSelector):
    """Asks its loop how long to wait for the outside."""

    loop: "VirtualTimeLoop | None" = None

    def select(self, timeout: float | None = None) -> Events:
        return super().select(timeout) if self.loop is None else self.loop.look(timeout, self)

    def look_outside(self, timeout: float | None) -> Events:
        """Return what is ready outside; wait for it in real time, None: for ever."""
        return super().select(timeout)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own, in seconds from 0.

    What is outside has to be said with `waiting_outside`; threads of `run_in_executor` are counted by themselves.
    The outside is looked at only when no task can go on, so that the order of tasks does not depend on it.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._outside = 0
        self._places = itertools.count()
        self.patience_s: float | None = None
        """Real seconds after which something outside is slow; None: never."""
        self.on_slow: Callable[[], None] = lambda: None
        """Told when nothing has come from outside for `patience_s`."""
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._now_s

    @contextmanager
    def waiting_outside(self) -> Iterator[None]:
        """Let time stand still in this block: it waits for something real."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1

    def look(self, timeout: float | None, selector: _Selector) -> Events:
        """Choose what comes next: tasks, then what is outside, then time. Called by the loop only.

        Raises:
            NothingLeftToDo: There is none of the three.
        """
        if timeout is not None and timeout <= 0:
            return []
        if self._outside:
            events = selector.look_outside(self.patience_s)
            if not events:
                self.on_slow()
            return events
        if events := selector.look_outside(0):
            return events
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not timers:
            raise NothingLeftToDo(sorted(task.get_name() for task in asyncio.all_tasks(self)))
        self._now_s = max(self._now_s, timers[0].when())
        # What is less than this ahead is due: the smallest step there is, so that a timer rings at its own moment.
        self._clock_resolution = math.ulp(self._now_s)
        return []

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a moment; callbacks of one moment in the order they were asked for."""
        self._check_closed()  # type: ignore[attr-defined]
        timer = _Timer(when, next(self._places), callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]  # noqa: SLF001
        return timer

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Run in a thread; time stands still until it is done."""
        done: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._outside += 1
        done.add_done_callback(self._come_back)
        return done

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """End the threads; time stands still until they have ended."""
        with self.waiting_outside():
            await super().shutdown_default_executor()

    def _come_back(self, _: "asyncio.Future[Any]") -> None:
        self._outside -= 1


class VirtualClock:
    """The clock port on a loop of virtual time: `now` and deadlines tell the same moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, beginning: datetime = BEGINNING) -> None:
        self._loop, self.beginning = loop, beginning

    def now(self) -> datetime:
        """Return this moment, UTC, to the microsecond."""
        return self.beginning + timedelta(seconds=self._loop.time())

    def monotonic_s(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._loop.time()


def run_in_virtual_time(main: Callable[[VirtualTimeLoop], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on a loop of virtual time of its own, to its end.

    Raises:
        NothingLeftToDo: It would have waited for ever.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return runner.run(main(loop))
