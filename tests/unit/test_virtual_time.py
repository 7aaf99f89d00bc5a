"""Time that passes only when there is nothing else to do."""

import asyncio
import random
import socket
import threading
import time
from datetime import timedelta

import pytest

from steelyard.testing.virtual_time import (
    BEGINNING,
    NothingLeftToDo,
    VirtualClock,
    VirtualTimeLoop,
    run_in_virtual_time,
)

DAY_S = 86_400.0


def test_a_year_of_sleeping_takes_no_time() -> None:
    async def main(loop: VirtualTimeLoop) -> timedelta:
        clock = VirtualClock(loop)
        for _ in range(365):
            await asyncio.sleep(DAY_S)
        assert clock.monotonic_s() == loop.time() == 365 * DAY_S
        return clock.now() - BEGINNING

    began_s = time.perf_counter()
    assert run_in_virtual_time(main) == timedelta(days=365)
    assert time.perf_counter() - began_s < DAY_S


def test_timers_of_one_moment_ring_in_the_order_they_were_set() -> None:
    chance = random.Random(7)

    async def main(loop: VirtualTimeLoop) -> list[int]:
        rung: list[int] = []
        noise = [loop.call_later(chance.uniform(0, 9), lambda: None) for _ in range(500)]
        for number in range(200):
            loop.call_at(5.0, rung.append, number)
            noise[number].cancel()  # the heap has another shape each time
        await asyncio.sleep(6)
        return rung

    for _ in range(3):
        assert run_in_virtual_time(main) == list(range(200))


def test_a_deadline_passes_at_its_moment_and_not_before_what_was_ready() -> None:
    async def main(loop: VirtualTimeLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        async with asyncio.timeout(2):
            for _ in range(10_000):
                await asyncio.sleep(0)
        return loop.time()

    assert run_in_virtual_time(main) == 2.0


def test_time_stands_still_while_something_outside_is_awaited() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main(loop: VirtualTimeLoop) -> tuple[bytes, float]:
        answering = threading.Timer(0.05, theirs.send, (b"answer",))
        answering.start()
        async with asyncio.timeout(0.001):
            with loop.waiting_outside():
                answer = await loop.sock_recv(ours, 6)
        answering.join()
        return answer, loop.time()

    try:
        assert run_in_virtual_time(main) == (b"answer", 0.0)
    finally:
        ours.close()
        theirs.close()


def test_an_answer_nobody_is_said_to_wait_for_loses_against_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def main(loop: VirtualTimeLoop) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await loop.sock_recv(ours, 6)
        return loop.time()

    try:
        assert run_in_virtual_time(main) == 0.001
    finally:
        ours.close()
        theirs.close()


def test_time_stands_still_while_a_thread_works() -> None:
    async def main(loop: VirtualTimeLoop) -> tuple[str, float]:
        async with asyncio.timeout(0.001):
            done = await asyncio.to_thread(_work)
        await asyncio.sleep(1)
        return done, loop.time()

    assert run_in_virtual_time(main) == ("done", 1.0)


def _work() -> str:
    time.sleep(0.02)
    return "done"


def test_slowness_outside_is_told_again_and_again_until_it_answers() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    told: list[float] = []

    async def main(loop: VirtualTimeLoop) -> bytes:
        loop.patience_s = 0.001

        def hear() -> None:
            told.append(loop.time())
            if len(told) == 3:
                theirs.send(b"answer")

        loop.on_slow = hear
        with loop.waiting_outside():
            return await loop.sock_recv(ours, 6)

    try:
        assert run_in_virtual_time(main) == b"answer"
    finally:
        ours.close()
        theirs.close()
    assert told == [0.0, 0.0, 0.0]


def test_waiting_for_ever_is_told_with_who_waits() -> None:
    async def main(_: VirtualTimeLoop) -> None:
        waiting = asyncio.create_task(asyncio.Event().wait(), name="the one that waits")
        await waiting

    with pytest.raises(NothingLeftToDo, match="the one that waits"):
        run_in_virtual_time(main)
