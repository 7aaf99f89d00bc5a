"""An engine in memory: for virtual time, and where psycopg is not there. What it loses, the dispatcher repeats."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Final

from steelyard.core.ids import TenantId
from steelyard.jobs.port import Deliver, Ticket, TicketCounts

ROOM: Final = 1_000

Place = tuple[TenantId, int]


@dataclass(slots=True)
class InProcessEngine:
    """Tickets of this process alone; each process that has one takes what it has slots for."""

    _waiting: dict[Place, Ticket] = field(default_factory=dict)
    _queues: dict[str, list[tuple[int, int, Ticket]]] = field(default_factory=dict)
    _active: dict[asyncio.Task[None], Ticket] = field(default_factory=dict)
    _order: "count[int]" = field(default_factory=count)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _is_stopping: bool = False

    async def enqueue(self, ticket: Ticket) -> bool:
        """As the port says."""
        return await self.enqueue_many([ticket]) == 1

    async def enqueue_many(self, tickets: Sequence[Ticket]) -> int:
        """As the port says."""
        new = 0
        for ticket in tickets:
            place = (ticket.tenant, ticket.run)
            if place not in self._waiting:
                self._waiting[place] = ticket
                queue = self._queues.setdefault(ticket.kind, [])
                heapq.heappush(queue, (-ticket.priority, next(self._order), ticket))
                new += 1
        self._changed.set()
        return new

    async def cancel(self, tenant: TenantId, run: int) -> bool:
        """As the port says."""
        return self._waiting.pop((tenant, run), None) is not None

    async def room(self) -> int:
        """As the port says."""
        return max(0, ROOM - len(self._waiting))

    async def work(self, kinds: Sequence[str], deliver: Deliver, *, slots: int) -> None:
        """As the port says."""
        self._is_stopping = False
        while not self._is_stopping:
            self._changed.clear()
            while len(self._active) < slots and (ticket := self._next(kinds)) is not None:
                task = asyncio.create_task(self._carry(ticket, deliver), name="jobs.carry")
                self._active[task] = ticket
                task.add_done_callback(self._end)
            await self._changed.wait()
        if self._active:
            await asyncio.wait(set(self._active))

    async def stop(self) -> None:
        """As the port says."""
        self._is_stopping = True
        self._changed.set()

    async def counts(self) -> Mapping[str, TicketCounts]:
        """As the port says."""
        waiting = Counter(ticket.kind for ticket in self._waiting.values())
        active = Counter(ticket.kind for ticket in self._active.values())
        return {kind: TicketCounts(waiting[kind], active[kind]) for kind in waiting.keys() | active}

    async def rescue(self, *, stalled: timedelta) -> int:
        """As the port says: whoever holds its tickets is this process itself."""
        return 0

    async def delete_old(self, *, older_than: timedelta, newest_kept: int) -> int:
        """As the port says: nothing is left of a ticket that is done."""
        return 0

    async def close(self) -> None:
        """As the port says."""
        await self.stop()
        self._waiting.clear()
        self._queues.clear()

    async def _carry(self, ticket: Ticket, deliver: Deliver) -> None:
        await deliver(ticket)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._active[task]
        self._changed.set()

    def _next(self, kinds: Sequence[str]) -> Ticket | None:
        """Take the most urgent ticket of these kinds, the longest waiting among equals."""
        heads = []
        for kind in kinds:
            queue = self._queues.get(kind, [])
            while queue and self._waiting.get(_place(queue[0][2])) is not queue[0][2]:
                heapq.heappop(queue)  # it was cancelled
            if queue:
                heads.append(queue)
        if not heads:
            return None
        _, _, ticket = heapq.heappop(min(heads))
        del self._waiting[_place(ticket)]
        return ticket


def _place(ticket: Ticket) -> Place:
    return ticket.tenant, ticket.run
