"""A watch per account: every committed step is told once and in order, whatever the bus does to it.

The next step is told, an older one dropped, and when one is missing the hole is read from the journal. Messages of
the bus may be lost, doubled and disordered; what is told is the journal.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from steelyard.live.events import LiveEvent, live_events_of
from steelyard.live.store import Place
from steelyard.runtime.bus import BalanceEvent

EARLY_MAX = 512
"""Steps kept of one account while an earlier one is missing; the rest are read from the journal too."""


class Listener(Protocol):
    """A session, as a watch sees it."""

    def tell(self, step: BalanceEvent, told_as: tuple[LiveEvent, ...]) -> None:
        """Hear of the next step of the account; `told_as` is made once for all listeners."""
        ...

    def tell_refusal(self, event: LiveEvent) -> None:
        """Hear of something that changed nothing."""
        ...

    def tell_put_back(self) -> None:
        """Hear that the journal ends before what was told: read the account anew."""
        ...


@dataclass(slots=True, eq=False)
class Watch:
    """What has been told of one account, and who listens.

    `need_heal` is called when a step is known to exist that has not been heard.
    """

    place: Place
    need_heal: Callable[["Watch"], None]
    told: int | None = None
    """The last `seq` told; None until the first listener has read the account."""
    listeners: set[Listener] = field(default_factory=set)
    _early: dict[int, BalanceEvent] = field(default_factory=dict)

    @property
    def early(self) -> tuple[int, ...]:
        """The steps heard before one that is missing."""
        return tuple(self._early)

    def start_at(self, seq: int) -> None:
        """Know that the account was read at `seq`; whoever reads it first decides where the watch begins."""
        if self.told is not None:
            return
        self.told = seq
        self._forget_old()
        self._tell_following()
        if self._early:
            self.need_heal(self)

    def hear(self, step: BalanceEvent) -> int:
        """Take in a committed step, from wherever. Returns how many steps were told."""
        assert step.seq is not None, "a refusal is no step"
        if self.told is not None and step.seq <= self.told:
            return 0
        if self.told is None or step.seq > self.told + 1:
            if len(self._early) < EARLY_MAX:
                self._early[step.seq] = step
            if self.told is not None:
                self.need_heal(self)
            return 0
        before = self.told
        self._tell(step)
        self._tell_following()
        return self.told - before

    def healed(self, steps: Iterable[BalanceEvent], *, unless_full: Collection[int]) -> int:
        """Take in what the journal has after `told`, oldest first. Returns how many steps were told.

        Args:
            steps: A page of the journal.
            unless_full: What was early before the journal was read, where the page holds all there was: such a step
                is in the page, or the journal does not have it, and then nobody is told of it.
        """
        count = sum(self.hear(step) for step in steps)
        for seq in unless_full:
            self._early.pop(seq, None)
        self._forget_old()
        if self._early:
            self.need_heal(self)
        return count

    def begin_again_at(self, seq: int) -> None:
        """Know that the journal ends before what was told: the database was put back to an earlier state."""
        self.told = seq
        self._early.clear()
        for listener in tuple(self.listeners):
            listener.tell_put_back()

    def tell_refusal(self, event: LiveEvent) -> None:
        """Tell every listener of something that changed nothing."""
        for listener in tuple(self.listeners):
            listener.tell_refusal(event)

    def _tell(self, step: BalanceEvent) -> None:
        self.told = step.seq
        told_as = live_events_of(step)
        for listener in tuple(self.listeners):
            listener.tell(step, told_as)

    def _tell_following(self) -> None:
        assert self.told is not None
        while self._early:
            following = self._early.pop(self.told + 1, None)
            if following is None:
                return
            self._tell(following)

    def _forget_old(self) -> None:
        told = self.told or 0
        for seq in [seq for seq in self._early if seq <= told]:
            del self._early[seq]
