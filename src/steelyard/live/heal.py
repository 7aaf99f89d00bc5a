"""Reads from the journal what the bus did not bring: one worker, many accounts in one call."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from steelyard.core.errors import DatabaseUnavailable
from steelyard.live.figures import LiveFigures
from steelyard.live.store import Place, load_changes_after
from steelyard.live.watch import Watch
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.database import Database

PAGE = 200
"""Changes of one account in one read."""

PLACES_MAX = 256
"""Accounts in one read."""

PAUSE_S = 0.01
"""A missing step has often overtaken its way by then, and no read is needed."""

DEADLINE_S = 5.0


@dataclass(slots=True, eq=False)
class Healer:
    """Fills holes of watches."""

    database: Database
    figures: LiveFigures
    find: Callable[[Place], Watch | None]
    """The watch of an account, if anybody still listens."""
    _wanted: dict[Place, bool] = field(default_factory=dict)
    """Accounts to read; True where the sweep asked, so that finding something means that the bus was deaf."""
    _work: asyncio.Event = field(default_factory=asyncio.Event)

    def want(self, watch: Watch) -> None:
        """See to it that the watch's missing steps are read."""
        self._wanted.setdefault(watch.place, False)
        self._work.set()

    def want_for_sweep(self, watch: Watch) -> None:
        """As `want`, for steps of which nothing was heard."""
        self._wanted[watch.place] = True
        self._work.set()

    async def turn(self) -> None:
        """Wait until something is wanted, and read it; for `repeat`, which tries again later.

        Raises:
            DatabaseUnavailable: What is wanted stays wanted.
        """
        await self._work.wait()
        await asyncio.sleep(PAUSE_S)
        while self._wanted:
            await self.heal_some()
        self._work.clear()

    async def heal_some(self) -> None:
        """Read what is missing of some accounts and tell it.

        Raises:
            DatabaseUnavailable: What is wanted stays wanted.
        """
        taken = {place: self._wanted.pop(place) for place in list(self._wanted)[:PLACES_MAX]}
        watches = {place: watch for place in taken if (watch := self.find(place)) is not None}
        early = {place: watch.early for place, watch in watches.items()}
        try:
            steps = await self._read(watches.values())
        except BaseException:
            for place, is_sweep in taken.items():
                self._wanted.setdefault(place, is_sweep)
            raise
        found: dict[Place, list[BalanceEvent]] = {}
        for step in steps:
            found.setdefault((step.tenant, step.account), []).append(step)
        for place, watch in watches.items():
            page = found.get(place, [])
            told = watch.healed(page, unless_full=early[place] if len(page) < PAGE else ())
            if taken[place]:
                self.figures.sweep_finds += told
            if len(page) >= PAGE:
                self._wanted.setdefault(place, taken[place])

    async def _read(self, watches: Iterable[Watch]) -> list[BalanceEvent]:
        after = [(*watch.place, watch.told) for watch in watches if watch.told is not None]
        self.figures.heal_reads += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await load_changes_after(self.database, after, limit=PAGE)
        except TimeoutError:
            raise DatabaseUnavailable(doing="reading missing changes") from None
