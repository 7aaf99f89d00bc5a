"""Publishing in the order of `seq`, though two batches are under way at once.

Answers of two batches may come back in either order. A step that comes before the one it follows is kept
until that one has come, or until no batch is under way that could still bring it: then another process made it,
and the relay tells of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from steelyard.core.ids import AccountId, TenantId
from steelyard.ledger.model import Posted

REMEMBERED = 100_000

Place = tuple[TenantId, AccountId]


@dataclass(slots=True)
class InOrder:
    """Hands steps on in order, per account."""

    hand_on: Callable[[Posted], None]
    _newest: dict[Place, int] = field(default_factory=dict)
    _kept: dict[Place, dict[int, Posted]] = field(default_factory=dict)
    _under_way: dict[int, set[Place]] = field(default_factory=dict)
    """By batch: the accounts whose kept steps wait for it."""

    def begin(self, batch: int) -> None:
        """Know of a batch that is sent now."""
        self._under_way[batch] = set()

    def end(self, batch: int) -> None:
        """Know that a batch has come back, or never will; release what waited for it alone."""
        waited = self._under_way.pop(batch, set())
        for place in waited:
            if not any(place in others for others in self._under_way.values()):
                self._release(place)

    def add(self, step: Posted) -> None:
        """Hand a step on, or keep it while the step before it may still come."""
        place = (step.tenant, step.account)
        newest = self._newest.get(place)
        may_be_early = step.seq > newest + 1 if newest is not None else step.seq > 1
        if may_be_early and len(self._under_way) > 1:
            self._kept.setdefault(place, {})[step.seq] = step
            for places in self._under_way.values():
                places.add(place)
            return
        self._hand_on(place, step)
        kept = self._kept.get(place)
        while kept:
            following = kept.pop(self._newest[place] + 1, None)
            if following is None:
                return
            self._hand_on(place, following)
        self._kept.pop(place, None)

    def _release(self, place: Place) -> None:
        kept = self._kept.pop(place, {})
        for seq in sorted(kept):
            self._hand_on(place, kept[seq])

    def _hand_on(self, place: Place, step: Posted) -> None:
        if step.seq > self._newest.get(place, 0):
            if len(self._newest) >= REMEMBERED:
                self._newest.clear()
            self._newest[place] = step.seq
        self.hand_on(step)
