"""Whatever the bus does, each listener is told the journal: in order, exactly once, from where it began."""

from dataclasses import dataclass, field
from typing import Any, cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steelyard.live.events import LiveEvent
from steelyard.live.session import HELD_BACK_MAX, Seat, Session
from steelyard.live.watch import EARLY_MAX, Watch
from steelyard.runtime.bus import BalanceEvent
from tests.unit.steps import ACCOUNT, TENANT, step_of

PAGE = 3


@dataclass
class Screen:
    """Stands for a session: keeps what its seat puts."""

    began_at: int | None = None
    told: list[LiveEvent] = field(default_factory=list)

    def put(self, event: LiveEvent) -> None:
        self.told.append(event)


def seat_of(screen: Screen) -> Seat:
    """A seat on a screen."""
    return Seat(cast(Session, screen), ACCOUNT)


def nothing(_: Watch) -> None:
    """Nobody heals by itself here."""


@dataclass
class Reading:
    """A read of the journal that has been made and whose answer is on its way."""

    page: list[BalanceEvent]
    early: tuple[int, ...]


class BadBus(RuleBasedStateMachine):
    """Commits, and a bus that loses, doubles, delays and disorders what it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[BalanceEvent] = []
        self.on_the_way: list[BalanceEvent] = []
        self.watch = Watch((TENANT, ACCOUNT), nothing)
        self.screens: list[tuple[Screen, Seat]] = []
        self.joining: list[tuple[Screen, Seat, int | None]] = []
        self.readings: list[Reading] = []

    @rule(kind=st.sampled_from(("charge", "hold")))
    def commit(self, kind: str) -> None:
        seq = len(self.journal) + 1
        self.journal.append(step_of(seq, kind=kind))
        self.on_the_way.append(self.journal[-1])

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), comes_again=st.booleans())
    def deliver(self, data: st.DataObject, comes_again: bool) -> None:
        place = data.draw(st.integers(0, len(self.on_the_way) - 1))
        self.watch.hear(self.on_the_way[place])
        if not comes_again:
            del self.on_the_way[place]

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        del self.on_the_way[data.draw(st.integers(0, len(self.on_the_way) - 1))]

    @rule()
    def join(self) -> None:
        screen = Screen()
        seat = seat_of(screen)
        self.watch.listeners.add(seat)
        self.joining.append((screen, seat, None))

    @precondition(lambda self: self.joining)
    @rule(data=st.data())
    def read_for_a_newcomer(self, data: st.DataObject) -> None:
        """The database answers at one moment, and the answer arrives at a later one."""
        place = data.draw(st.integers(0, len(self.joining) - 1))
        screen, seat, head = self.joining[place]
        if head is None:
            self.joining[place] = (screen, seat, len(self.journal))
            return
        del self.joining[place]
        self.begin(screen, seat, head)

    def begin(self, screen: Screen, seat: Seat, head: int) -> None:
        """As a session does: where steps have passed that were not kept, the account is read again."""
        if seat.must_read_again(head, self.watch.told):
            seat.begin_again()
            head = len(self.journal)
            assert not seat.must_read_again(head, self.watch.told)
        screen.began_at = head
        seat.begin(head, 0, 0)
        self.watch.start_at(head)
        self.screens.append((screen, seat))

    @precondition(lambda self: self.screens)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.screens) - 1))
        self.watch.listeners.discard(self.screens.pop(place)[1])

    @precondition(lambda self: self.watch.told is not None)
    @rule()
    def begin_to_heal(self) -> None:
        after = self.watch.told or 0
        self.readings.append(Reading(self.journal[after : after + PAGE], self.watch.early))

    @precondition(lambda self: self.readings)
    @rule()
    def end_to_heal(self) -> None:
        reading = self.readings.pop(0)
        is_full = len(reading.page) == PAGE
        self.watch.healed(reading.page, unless_full=() if is_full else reading.early)

    @invariant()
    def every_screen_was_told_the_journal_from_where_it_began(self) -> None:
        for screen, seat in self.screens:
            assert screen.began_at is not None
            assert seat.position is not None
            expected = []
            for step in self.journal[screen.began_at : seat.position]:
                expected.append(("balance_updated", step.seq))
                if step.kind == "charge":
                    expected.append(("transaction_completed", step.seq))
            assert [(event.name, event.seq) for event in screen.told] == expected
        for screen, _, _ in self.joining:
            assert screen.told == []

    def teardown(self) -> None:
        """In the end the journal is read, and everybody stands where it ends."""
        while self.joining:
            screen, seat, head = self.joining.pop()
            self.begin(screen, seat, len(self.journal) if head is None else head)
        if self.watch.told is None:
            return
        while self.watch.told < len(self.journal):
            self.begin_to_heal()
            while self.readings:
                self.end_to_heal()
        self.every_screen_was_told_the_journal_from_where_it_began()
        assert all(seat.position == len(self.journal) for _, seat in self.screens)


TestBadBus = BadBus.TestCase
TestBadBus.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_a_step_that_overtakes_another_asks_for_the_hole_and_is_told_after_it() -> None:
    asked: list[Watch] = []
    watch, screen = Watch((TENANT, ACCOUNT), asked.append), Screen()
    seat = seat_of(screen)
    watch.listeners.add(seat)
    watch.start_at(4)
    seat.begin(4, 0, 0)
    assert watch.hear(step_of(6)) == 0
    assert (asked, screen.told) == ([watch], [])
    assert watch.hear(step_of(5)) == 2
    assert [event.seq for event in screen.told] == [5, 5, 6, 6]


def test_steps_far_ahead_are_kept_up_to_a_bound() -> None:
    watch = Watch((TENANT, ACCOUNT), nothing)
    watch.start_at(0)
    for seq in range(3, 3 + 2 * EARLY_MAX):
        watch.hear(step_of(seq))
    assert len(watch.early) == EARLY_MAX


def test_a_step_the_journal_does_not_have_is_told_to_nobody() -> None:
    watch, screen = Watch((TENANT, ACCOUNT), nothing), Screen()
    watch.start_at(1)
    seat = seat_of(screen)
    seat.begin(1, 0, 0)
    watch.listeners.add(seat)
    watch.hear(step_of(9))
    watch.healed([step_of(2)], unless_full=watch.early)
    assert watch.early == ()
    assert [event.seq for event in screen.told] == [2, 2]


def test_what_is_told_while_an_account_is_read_is_kept_up_to_a_bound_and_then_read_again() -> None:
    watch, screen = Watch((TENANT, ACCOUNT), nothing), Screen()
    seat = seat_of(screen)
    watch.listeners.add(seat)
    watch.start_at(0)
    for seq in range(1, HELD_BACK_MAX + 3):
        watch.hear(step_of(seq))
    assert seat.is_overrun
    assert len(seat.held_back) == HELD_BACK_MAX
    assert screen.told == []


def test_a_journal_put_back_to_an_earlier_state_is_told_to_every_listener() -> None:
    put_back: list[Any] = []

    class Hears(Screen):
        acts = property(lambda self: self)

        def read_again(self, seat: Seat) -> None:
            put_back.append(seat)

    watch = Watch((TENANT, ACCOUNT), nothing)
    seats = [seat_of(Hears()) for _ in range(2)]
    watch.listeners.update(seats)
    watch.start_at(9)
    watch.begin_again_at(4)
    assert watch.told == 4
    assert set(put_back) == set(seats)
