"""What is remembered about credentials is young, bounded and read once."""

import asyncio
from datetime import timedelta

import pytest

from steelyard.access.recent import Recent
from steelyard.testing.clock import FrozenClock


class Source:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self) -> int:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        return number


async def test_answer_is_kept_for_five_seconds_and_no_longer() -> None:
    clock, source = FrozenClock(), Source()
    recent: Recent[str, int] = Recent(clock)
    assert await recent.get("a", source.load) == 1
    clock.move(timedelta(seconds=4.999))
    assert await recent.get("a", source.load) == 1
    clock.move(timedelta(seconds=0.001))
    assert await recent.get("a", source.load) == 2


async def test_age_counts_from_before_the_load() -> None:
    clock, source = FrozenClock(), Source()
    recent: Recent[str, int] = Recent(clock)
    source.gate.clear()
    waiting = asyncio.create_task(recent.get("a", source.load))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.move(timedelta(seconds=3))
    source.gate.set()
    assert await waiting == 1
    clock.move(timedelta(seconds=2))
    assert recent.peek("a") is None


async def test_many_who_ask_at_once_share_one_load() -> None:
    source = Source()
    recent: Recent[str, int] = Recent(FrozenClock())
    assert await asyncio.gather(*(recent.get("a", source.load) for _ in range(50))) == [1] * 50


async def test_one_who_gives_up_does_not_take_the_answer_from_others() -> None:
    source = Source()
    recent: Recent[str, int] = Recent(FrozenClock())
    source.gate.clear()
    first = asyncio.create_task(recent.get("a", source.load))
    second = asyncio.create_task(recent.get("a", source.load))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.gate.set()
    assert await second == 1
    assert first.cancelled()


async def test_forgetting_during_a_load_keeps_its_answer_out() -> None:
    source = Source()
    recent: Recent[str, int] = Recent(FrozenClock())
    source.gate.clear()
    early = asyncio.create_task(recent.get("a", source.load))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    recent.forget("a")
    late = asyncio.create_task(recent.get("a", source.load))
    await asyncio.sleep(0)
    source.gate.set()
    assert (await early, await late) == (1, 2)
    assert recent.peek("a") == (2,)


async def test_failure_reaches_all_who_wait_and_is_not_kept() -> None:
    recent: Recent[str, int] = Recent(FrozenClock())

    async def fail() -> int:
        raise ConnectionError("gone")

    outcomes = await asyncio.gather(
        recent.get("a", fail), recent.get("a", fail), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [ConnectionError, ConnectionError]
    with pytest.raises(ConnectionError):
        await recent.get("a", fail)
    assert await recent.get("a", Source().load) == 1


def test_the_one_unused_for_longest_leaves() -> None:
    recent: Recent[int, int] = Recent(FrozenClock(), size_max=3)
    for number in range(3):
        recent.keep(number, number)
    assert recent.peek(0) == (0,)
    recent.keep(3, 3)
    assert len(recent) == 3
    assert [recent.peek(number) for number in range(4)] == [(0,), None, (2,), (3,)]


def test_none_is_an_answer_too() -> None:
    recent: Recent[int, None] = Recent(FrozenClock())
    recent.keep(1, None)
    assert recent.peek(1) == (None,)
