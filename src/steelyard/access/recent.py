"""Answers that may be a few seconds old: bounded, and read once however many ask at the same time."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from steelyard.core.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RECHECK_S = 5.0
"""How old an answer about a credential may be: a revocation takes effect within this time everywhere."""

SIZE_MAX = 10_000


@dataclass(slots=True)
class Recent(Generic[K, V]):
    """The newest answers by key; the one unused for longest leaves when there are too many."""

    clock: Clock
    age_s_max: float = RECHECK_S
    size_max: int = SIZE_MAX
    _answers: OrderedDict[K, tuple[float, V]] = field(default_factory=OrderedDict)
    _loading: dict[K, "asyncio.Task[V]"] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._answers)

    def peek(self, key: K) -> tuple[V] | None:
        """Return the answer in a tuple if there is one young enough; an answer may itself be None."""
        found = self._answers.get(key)
        if found is None:
            return None
        if self.clock.monotonic_s() - found[0] >= self.age_s_max:
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return (found[1],)

    def keep(self, key: K, value: V) -> None:
        """Keep an answer that is true now."""
        self._keep(key, value, self.clock.monotonic_s())

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """Return the answer, loading it if there is none; those who ask meanwhile wait for the same load.

        An answer's age counts from before its load began. What `load` raises is raised to all who wait
        and not kept.
        """
        found = self.peek(key)
        if found is not None:
            return found[0]
        task = self._loading.get(key)
        if task is None:
            task = asyncio.create_task(self._load(key, load))
            self._loading[key] = task
            task.add_done_callback(_notice)
        # One who gives up must not take the answer away from the others.
        return await asyncio.shield(task)

    def forget(self, key: K) -> None:
        """Drop the answer, and let nobody new join a load that began before now."""
        self._answers.pop(key, None)
        self._loading.pop(key, None)

    async def _load(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        began_s, mine = self.clock.monotonic_s(), asyncio.current_task()
        try:
            value = await load()
            if self._loading.get(key) is mine:
                self._keep(key, value, began_s)
            return value
        finally:
            if self._loading.get(key) is mine:
                del self._loading[key]

    def _keep(self, key: K, value: V, as_of_s: float) -> None:
        self._answers[key] = (as_of_s, value)
        self._answers.move_to_end(key)
        if len(self._answers) > self.size_max:
            self._answers.popitem(last=False)


def _notice(task: "asyncio.Task[V]") -> None:
    # If all who waited have given up, nobody else looks at what it raised.
    if not task.cancelled():
        task.exception()
