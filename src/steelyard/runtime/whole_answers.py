"""Sends an answer that is ready as a whole in one piece.

uvicorn takes an answer as two messages, checks each header with regular expressions, and writes head and
body to the socket apart: two system calls for us and two arrivals for the client. `WholeAnswers` is
uvicorn's own protocol, which besides offers the application a function that writes a whole answer at once.
Whatever is not taken that way goes as always. Source: docs/decisions/0010.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

EXTENSION: Final = "steelyard.whole_answer"
"""Its name among `scope["extensions"]`."""

SendWhole = Callable[[int, bytes, bytes], bool]
"""Takes status, header lines (each with CR and LF at its end, `content-length` among them), body.

Nothing of them is checked. Says whether the answer was taken; False where the client reads too slowly, and
then the ordinary way waits for it.
"""


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose requests carry the extension."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        cycle.scope["extensions"] = {EXTENSION: partial(_send_whole, cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)


def _send_whole(cycle: RequestResponseCycle, status: int, head: bytes, body: bytes) -> bool:
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
        return False
    cycle.response_started = cycle.response_complete = True
    end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    if cycle.scope["method"] == "HEAD":
        body = b""
    cycle.transport.write(STATUS_LINE[status] + head + end + body)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
