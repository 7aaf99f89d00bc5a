"""Reads when a bank is closed: `23:00-01:00`, in UTC; it may go over midnight."""

from datetime import time

from steelyard.core.errors import InvalidInput


def read_window(text: str) -> tuple[time, time]:
    """Return begin and end of the daily window.

    Raises:
        InvalidInput: It is no window, or an empty one.
    """
    problem = "it is two times of day in UTC such as 23:00-01:00"
    begin, dash, end = text.partition("-")
    try:
        window = time.fromisoformat(begin.strip()), time.fromisoformat(end.strip())
    except ValueError:
        raise InvalidInput(field="maintenance", problem=problem) from None
    if not dash or window[0] == window[1] or any(one.tzinfo for one in window):
        raise InvalidInput(field="maintenance", problem=problem)
    return window
