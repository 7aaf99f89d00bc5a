"""Keeps something running at intervals for as long as the process lives."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from steelyard.core.errors import DatabaseUnavailable, Overloaded
from steelyard.runtime.errors_out import report_error

PAUSE_MAX_S = 5.0
_log = structlog.get_logger()


async def repeat(name: str, act: Callable[[], Awaitable[object]], *, every_s: float) -> None:
    """Call `act` again and again until cancelled; after a failure wait longer, at most 5 s.

    The first of several failures is logged, and the recovery; an exception nobody expected is reported too.
    """
    failures = 0
    while True:
        try:
            await act()
        except (DatabaseUnavailable, Overloaded) as error:
            failures += 1
            if failures == 1:
                _log.warning("task.waiting", task=name, reason=str(error))
        # The edge of a task: nobody above could go on with it.
        except Exception as error:
            failures += 1
            _log.error("task.failed", task=name, failures=failures, exc_info=error)
            report_error(error, task=name)
        else:
            if failures:
                _log.info("task.recovered", task=name, failures=failures)
            failures = 0
        await asyncio.sleep(min(every_s * 2 ** min(failures, 10), max(PAUSE_MAX_S, every_s)))
