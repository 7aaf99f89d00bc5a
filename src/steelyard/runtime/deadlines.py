"""One timer for all requests: whoever takes longer than it may is cancelled, at most 100 ms late.

A timer per request costs more than many requests do; here a request is one entry in a dictionary.
"""

import asyncio
from dataclasses import dataclass, field

SWEEP_S = 0.1

Task = asyncio.Task[object]


@dataclass(slots=True)
class Deadlines:
    """Cancels tasks whose time is over."""

    _until: dict[Task, float] = field(default_factory=dict)
    _over: set[Task] = field(default_factory=set)
    _sweeping: asyncio.TimerHandle | None = None

    def start(self, limit_s: float) -> Task:
        """Give the running task `limit_s` seconds from now; end it with `stop`."""
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._until[task] = loop.time() + limit_s
        if self._sweeping is None:
            self._sweeping = loop.call_later(SWEEP_S, self._sweep, loop)
        return task

    def stop(self, task: Task) -> None:
        """Take the limit off."""
        self._until.pop(task, None)

    def was_over(self, task: Task) -> bool:
        """Say whether a cancellation came from here; the task goes on as if it had not been cancelled."""
        if task not in self._over:
            return False
        self._over.discard(task)
        task.uncancel()
        return True

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        for task in [task for task, until in self._until.items() if until <= now_s]:
            del self._until[task]
            if not task.done():
                self._over.add(task)
                task.cancel()
        self._over = {task for task in self._over if not task.done()}
        self._sweeping = (
            loop.call_later(SWEEP_S, self._sweep, loop) if self._until or self._over else None
        )
