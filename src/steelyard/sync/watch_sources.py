"""How each source stands, seen now and then by a process that syncs: what its metrics tell."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from steelyard.core.errors import DatabaseUnavailable
from steelyard.sync.describe_sync import Viewer
from steelyard.sync.model import SourceStatus

WATCH_EVERY_S: Final = 15.0
SHARE_MAX: Final = 0.05
"""Part of the time that looking may take, however many tenants there are."""

_log = structlog.get_logger()


@dataclass(slots=True)
class SourceWatch:
    """What was seen last; nothing before the first look."""

    viewer: Viewer
    providers: Sequence[str]
    seen: tuple[SourceStatus, ...] = ()
    seen_s: float | None = None
    """When, by the clock's monotonic seconds."""

    async def run(self) -> None:
        """Look until cancelled."""
        clock = self.viewer.clock
        while True:
            began_s = clock.monotonic_s()
            try:
                self.seen = tuple(await self.viewer.sources(self.providers))
                self.seen_s = began_s
            except (DatabaseUnavailable, asyncpg.PostgresError) as error:
                _log.warning("sync.not_watched", reason=str(error))
            took_s = clock.monotonic_s() - began_s
            await asyncio.sleep(max(WATCH_EVERY_S, took_s / SHARE_MAX))
