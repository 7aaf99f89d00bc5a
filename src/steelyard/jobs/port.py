"""The port of the engine that brings jobs to workers.

An engine only carries tickets: tenant, run, kind, priority. What a job is, whether it may begin and what became of it
stands in our own tables, so an engine may deliver a ticket twice, late or, while `hand over` repeats it, not at all.
Every engine passes `steelyard.testing.job_engine_contract`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from steelyard.core.ids import TenantId


@dataclass(frozen=True, slots=True)
class Ticket:
    """Names a job that is due."""

    tenant: TenantId
    run: int
    kind: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class TicketCounts:
    """Tickets of a kind: not delivered yet, and being worked on."""

    waiting: int
    active: int


Deliver = Callable[[Ticket], Awaitable[None]]
"""Takes a ticket and returns when its work is done. It raises nothing but what ends the process."""


class JobEngine(Protocol):
    """Carries tickets from dispatchers to workers, the larger priority first.

    Every method but `work` raises `DatabaseUnavailable` when the store of the engine does not answer.
    """

    async def enqueue(self, ticket: Ticket) -> bool:
        """Take a ticket. Returns False where one of the same run waits already."""
        ...

    async def enqueue_many(self, tickets: Sequence[Ticket]) -> int:
        """Take tickets; those whose run waits already are passed by. Returns how many were new."""
        ...

    async def cancel(self, tenant: TenantId, run: int) -> bool:
        """Forget a ticket that was not delivered yet. Returns whether there was one."""
        ...

    async def room(self) -> int:
        """Return how many tickets it takes now without keeping urgent ones waiting behind them."""
        ...

    async def work(self, kinds: Sequence[str], deliver: Deliver, *, slots: int) -> None:
        """Deliver tickets of these kinds, `slots` at once, until `stop`. It outlives the loss of its store."""
        ...

    async def stop(self) -> None:
        """Deliver nothing more. `work` returns when everything delivered is done."""
        ...

    async def counts(self) -> Mapping[str, TicketCounts]:
        """Return how many tickets there are, by kind."""
        ...

    async def rescue(self, *, stalled: timedelta) -> int:
        """Forget tickets whose worker gave no sign of life for so long. Returns how many.

        Their jobs are handed over again by whoever found that they had stalled.
        """
        ...

    async def delete_old(self, *, older_than: timedelta, newest_kept: int) -> int:
        """Delete what is left of tickets that are done: older ones, and those beyond the newest of their kind.

        Returns how many.
        """
        ...

    async def close(self) -> None:
        """Let go of everything it holds."""
        ...
