"""The small parts of the gateway: who may come in, how much one may say, how bytes leave."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.live.admit import Origins, parse_origins, read_accounts, read_positions
from steelyard.live.events import LiveEvent
from steelyard.live.limits import Bucket
from steelyard.live.pump import Pump
from steelyard.live.sse import read_event_id, write_event_id
from steelyard.live.transport import Ending, Refused

NAMED = parse_origins("https://App.example.com/, https://two.example:8443")


@pytest.mark.parametrize(
    ("origin", "host", "is_local", "expected"),
    [
        (None, None, False, True),
        ("https://app.example.com", "api.example.com", False, True),
        ("https://two.example:8443", "api.example.com", False, True),
        ("https://two.example", "api.example.com", False, False),
        ("http://app.example.com", "api.example.com", False, False),
        ("https://app.example.com.evil.example", "api.example.com", False, False),
        ("http://api.example.com:3000", "api.example.com:3000", False, True),
        ("http://api.example.com:3001", "api.example.com:3000", False, False),
        ("http://localhost:5173", "127.0.0.1:3000", True, True),
        ("http://localhost:5173", "127.0.0.1:3000", False, False),
        ("http://[::1]:5173", "127.0.0.1:3000", True, True),
        ("http://localhost.evil.example", "127.0.0.1:3000", True, False),
        ("file://localhost", "127.0.0.1:3000", True, False),
        ("null", "127.0.0.1:3000", True, False),
        ("http://[", "127.0.0.1:3000", True, False),
        ("", "", True, False),
    ],
)
def test_which_pages_may_connect(
    origin: str | None, host: str | None, is_local: bool, expected: bool
) -> None:
    assert Origins(NAMED, is_local).allows(origin, host) is expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_whatever_a_client_says_of_itself_is_read_or_refused(value: Any) -> None:
    reads: tuple[Callable[[object], object], ...] = (read_positions, read_accounts)
    endings = []
    for read in reads:
        try:
            read(value)
        except Refused as refused:
            endings.append(refused.ending)
    assert set(endings) <= {Ending.MALFORMED}


def test_positions_are_read_up_to_a_bound() -> None:
    assert read_positions({"7": 3, "8": 0}) == {7: 3, 8: 0}
    with pytest.raises(Refused):
        read_positions({str(number): 1 for number in range(101)})


def test_an_event_id_comes_back_as_the_positions_it_was_made_of() -> None:
    positions = read_positions({"7": 3, "8": 0})
    assert read_positions(read_event_id(write_event_id(positions))) == positions


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_no_sequence_of_acts_passes_a_bucket_faster_than_it_fills(pauses: list[float]) -> None:
    bucket, now_s, passed = Bucket(20, 5.0), 0.0, 0
    for pause_s in pauses:
        now_s += pause_s
        if bucket.wait_s(now_s) == 0:
            passed += 1
        assert passed <= 20 + 5 * now_s + 1e-6


def test_who_waits_as_long_as_a_bucket_says_passes() -> None:
    bucket, now_s = Bucket(2, 4.0), 100.0
    assert [bucket.wait_s(now_s) for _ in range(3)] == [0, 0, 0.25]
    assert bucket.wait_s(now_s + 0.25) == 0
    assert not bucket.is_full(now_s + 0.5)
    assert bucket.is_full(now_s + 0.75)


@dataclass
class Line:
    """A connection that takes so many messages, then makes the sender wait."""

    room: int
    sent: list[int] = field(default_factory=list)
    has_broken: bool = False
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: dict[str, Any]) -> None:
        if self.has_broken:
            raise ConnectionResetError
        while self.room == 0:
            self._open.clear()
            await self._open.wait()
            if self.has_broken:
                raise ConnectionResetError
        self.room -= 1
        self.sent.append(message["number"])

    def make_room(self, room: int) -> None:
        self.room = room
        self._open.set()


def pump_of(line: Line, waiting: list[int], broke: Callable[[], None] = lambda: None) -> Pump:
    """A pump of numbers."""

    def take() -> LiveEvent | None:
        return LiveEvent(str(waiting.pop(0)), "{}") if waiting else None

    return Pump(line.send, take, lambda event: {"number": int(event.name)}, broke)


async def test_a_pump_sends_at_once_and_takes_nothing_while_the_line_is_full() -> None:
    line, waiting = Line(room=3), list(range(10))
    pump = pump_of(line, waiting)
    pump.wake()
    assert (line.sent, waiting) == ([0, 1, 2], [4, 5, 6, 7, 8, 9])
    pump.wake()
    assert waiting == [4, 5, 6, 7, 8, 9]
    line.make_room(100)
    await asyncio.sleep(0.01)
    assert (line.sent, waiting) == (list(range(10)), [])


async def test_a_pump_that_is_stopped_sends_its_last_message_after_what_was_under_way() -> None:
    line, waiting = Line(room=1), list(range(10))
    pump = pump_of(line, waiting)
    pump.wake()
    stopping = asyncio.create_task(pump.stop({"number": 99}, deadline_s=5))
    await asyncio.sleep(0.01)
    line.make_room(100)
    assert await stopping
    assert line.sent == [0, 1, 99]


async def test_a_pump_gives_up_on_a_line_that_takes_nothing() -> None:
    line = Line(room=0)
    pump = pump_of(line, [1, 2])
    pump.wake()
    assert not await pump.stop({"number": 99}, deadline_s=0.05)
    assert line.sent == []


@pytest.mark.parametrize("room", [0, 5])
async def test_a_pump_says_once_that_the_line_broke(room: int) -> None:
    broken: list[bool] = []
    line = Line(room=room)
    pump = pump_of(line, [1, 2, 3], lambda: broken.append(True))
    if room:
        line.has_broken = True
        pump.wake()
    else:
        pump.wake()
        line.has_broken = True
        line.make_room(1)
        await asyncio.sleep(0.01)
    pump.wake()
    assert (broken, line.sent) == ([True], [])
