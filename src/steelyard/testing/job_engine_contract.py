"""What every engine of jobs promises: run each check of `JOB_ENGINE_CONTRACT` on an engine of yours.

for check in JOB_ENGINE_CONTRACT:
    await check(await make_engine())
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from steelyard.core.ids import DEFAULT_TENANT, TenantId
from steelyard.jobs.port import JobEngine, Ticket

OTHER_TENANT = TenantId("other")
KIND, OTHER_KIND = "sort-coins", "weigh-coins"
WAIT_S = 20.0
"""Longest anything is waited for."""

JobEngineCheck = Callable[[JobEngine], Awaitable[None]]


@dataclass(slots=True)
class Delivered:
    """Notes what is delivered; while `gate` is closed, work on it goes on."""

    tickets: list[Ticket] = field(default_factory=list)
    done: list[Ticket] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    at_once_most: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def deliver(self, ticket: Ticket) -> None:
        """Take a ticket and keep it until the gate is open."""
        self.at_once += 1
        self.at_once_most = max(self.at_once, self.at_once_most)
        async with self._changed:
            self.tickets.append(ticket)
            self._changed.notify_all()
        await self.gate.wait()
        self.at_once -= 1
        async with self._changed:
            self.done.append(ticket)
            self._changed.notify_all()

    async def until(self, *, delivered: int = 0, done: int = 0) -> None:
        """Wait until so many were delivered and done.

        Raises:
            TimeoutError: They were not.
        """
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(
                lambda: len(self.tickets) >= delivered and len(self.done) >= done
            )


@asynccontextmanager
async def at_work(
    engine: JobEngine, heard: Delivered, *, slots: int = 4, kinds: tuple[str, ...] = (KIND,)
) -> AsyncIterator[None]:
    """Have the engine deliver while inside."""
    working = asyncio.create_task(engine.work(kinds, heard.deliver, slots=slots))
    try:
        yield
    finally:
        heard.gate.set()
        await engine.stop()
        async with asyncio.timeout(WAIT_S):
            await working


def _ticket(run: int, *, priority: int = 0, kind: str = KIND) -> Ticket:
    return Ticket(DEFAULT_TENANT, run, kind, priority)


async def check_every_ticket_is_delivered_as_it_was(engine: JobEngine) -> None:
    """Tenant, run, kind and priority arrive, also of tickets that came while nobody worked."""
    sent = [_ticket(1), _ticket(2, priority=7), Ticket(OTHER_TENANT, 2**40, KIND, 1000)]
    assert await engine.enqueue(sent[0])
    assert await engine.enqueue_many(sent[1:]) == 2
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard):
        await heard.until(done=3)
        late = _ticket(4)
        await engine.enqueue(late)
        await heard.until(done=4)
    assert sorted(heard.done, key=lambda ticket: ticket.run) == [*sent[:2], late, sent[2]]


async def check_the_most_urgent_goes_first(engine: JobEngine) -> None:
    """The larger priority first, and among equals the one that came first."""
    for run, priority in ((1, 0), (2, 5), (3, 100), (4, 5)):
        await engine.enqueue(_ticket(run, priority=priority))
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard, slots=1):
        await heard.until(done=4)
    assert [ticket.run for ticket in heard.tickets] == [3, 2, 4, 1]


async def check_a_run_waits_once(engine: JobEngine) -> None:
    """A ticket whose run waits already is passed by; the same run of another tenant is another one."""
    assert await engine.enqueue(_ticket(1))
    assert not await engine.enqueue(_ticket(1))
    assert await engine.enqueue(Ticket(OTHER_TENANT, 1, KIND))
    assert await engine.enqueue_many([_ticket(1), _ticket(2)]) == 1
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard):
        await heard.until(done=3)
    assert sorted((t.tenant, t.run) for t in heard.done) == [
        (DEFAULT_TENANT, 1),
        (DEFAULT_TENANT, 2),
        (OTHER_TENANT, 1),
    ]


async def check_a_run_can_be_asked_for_again_while_it_is_delivered(engine: JobEngine) -> None:
    """Its next attempt is another delivery."""
    heard = Delivered()
    async with at_work(engine, heard):
        await engine.enqueue(_ticket(1))
        await heard.until(delivered=1)
        assert await engine.enqueue(_ticket(1))
        await heard.until(delivered=2)
    assert [ticket.run for ticket in heard.done] == [1, 1]


async def check_a_cancelled_ticket_is_not_delivered(engine: JobEngine) -> None:
    """Only one that waits can be cancelled."""
    await engine.enqueue_many([_ticket(1), _ticket(2)])
    assert await engine.cancel(DEFAULT_TENANT, 1)
    assert not await engine.cancel(DEFAULT_TENANT, 1)
    assert not await engine.cancel(OTHER_TENANT, 2)
    heard = Delivered()
    async with at_work(engine, heard):
        await heard.until(delivered=1)
        assert not await engine.cancel(DEFAULT_TENANT, 2)
    assert [ticket.run for ticket in heard.done] == [2]


async def check_no_more_than_its_slots_are_delivered_at_once(engine: JobEngine) -> None:
    """Each that is done makes way for the next."""
    await engine.enqueue_many([_ticket(run) for run in range(1, 10)])
    heard = Delivered()
    async with at_work(engine, heard, slots=3):
        await heard.until(delivered=3)
        assert heard.at_once == 3
        heard.gate.set()
        await heard.until(done=9)
    assert heard.at_once_most == 3


async def check_other_kinds_wait(engine: JobEngine) -> None:
    """A worker is given only kinds it knows."""
    await engine.enqueue_many([_ticket(1, kind=OTHER_KIND, priority=9), _ticket(2)])
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard):
        await heard.until(done=1)
    assert [ticket.run for ticket in heard.done] == [2]
    assert (await engine.counts())[OTHER_KIND].waiting == 1


async def check_it_tells_what_waits_and_what_is_under_way(engine: JobEngine) -> None:
    """By kind; what is done is in neither."""
    await engine.enqueue_many([_ticket(run) for run in (1, 2, 3)])
    assert (await engine.counts())[KIND].waiting == 3
    heard = Delivered()
    async with at_work(engine, heard, slots=2):
        await heard.until(delivered=2)
        counts = (await engine.counts())[KIND]
        assert (counts.waiting, counts.active) == (1, 2)
        heard.gate.set()
        await heard.until(done=3)
    assert KIND not in await engine.counts()


async def check_stopping_waits_for_what_is_under_way_and_begins_nothing(engine: JobEngine) -> None:
    """What was not delivered is there for whoever works next."""
    heard = Delivered()
    await engine.enqueue_many([_ticket(1), _ticket(2)])
    working = asyncio.create_task(engine.work([KIND], heard.deliver, slots=1))
    await heard.until(delivered=1)
    await engine.stop()
    await asyncio.sleep(0)
    assert not working.done()
    heard.gate.set()
    async with asyncio.timeout(WAIT_S):
        await working
    assert len(heard.done) == 1
    async with at_work(engine, heard):
        await heard.until(done=2)
    assert sorted(ticket.run for ticket in heard.done) == [1, 2]


async def check_it_has_room_and_leaves_little_behind(engine: JobEngine) -> None:
    """It says how much it takes; of what is done as much is kept as asked, and nothing that waits is forgotten."""
    empty = await engine.room()
    assert empty > 0
    await engine.enqueue_many([_ticket(run) for run in range(1, 6)])
    assert await engine.room() == empty - 5
    heard = Delivered()
    heard.gate.set()
    async with at_work(engine, heard):
        await heard.until(done=5)
    await engine.enqueue(_ticket(6))
    await engine.delete_old(older_than=timedelta(days=7), newest_kept=2)
    assert await engine.delete_old(older_than=timedelta(days=7), newest_kept=2) == 0
    assert await engine.rescue(stalled=timedelta(seconds=30)) == 0
    assert (await engine.counts())[KIND].waiting == 1


JOB_ENGINE_CONTRACT: tuple[JobEngineCheck, ...] = (
    check_every_ticket_is_delivered_as_it_was,
    check_the_most_urgent_goes_first,
    check_a_run_waits_once,
    check_a_run_can_be_asked_for_again_while_it_is_delivered,
    check_a_cancelled_ticket_is_not_delivered,
    check_no_more_than_its_slots_are_delivered_at_once,
    check_other_kinds_wait,
    check_it_tells_what_waits_and_what_is_under_way,
    check_stopping_waits_for_what_is_under_way_and_begins_nothing,
    check_it_has_room_and_leaves_little_behind,
)
