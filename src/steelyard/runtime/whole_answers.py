"""The HTTP protocol: whole answers in one piece, and heads that are neither endless nor for ever under way.

uvicorn takes an answer as two messages, checks each header with regular expressions, and writes head and
body to the socket apart: two system calls for us and two arrivals for the client. `WholeAnswers` is
uvicorn's own protocol, which besides offers the application a function that writes a whole answer at once.
Whatever is not taken that way goes as always. Source: docs/decisions/0010.

uvicorn waits for the end of a request's head as long as it takes, and keeps all of it. Here a head has 64 KiB and
100 lines at most and 10 s to arrive; a WebSocket's, which another parser reads again, has lines of at most 8,000 bytes.
"""

import asyncio
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


HEAD_BYTES_MAX: Final = 65_536
HEAD_LINES_MAX: Final = 100
HEAD_DEADLINE_S: Final = 10.0
WEBSOCKET_LINE_MAX: Final = 8_000
"""The `websockets` library takes 8,192 bytes a line, and where there are more uvicorn never answers."""


class WholeAnswers(HttpToolsProtocol):
    """uvicorn's HTTP protocol, whose requests carry the extension and whose heads are bounded."""

    _head_bytes: int = 0
    _is_head_open: bool = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head in time."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse a head that does not end."""
        super().data_received(data)
        if not self._is_head_open:
            self._stop_waiting()
            return
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX or len(self.headers) > HEAD_LINES_MAX:
            self._refuse(431, b"the head of the request is too large\n")
        elif self._head_timer is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_bytes, self._is_head_open = 0, True

    def on_headers_complete(self) -> None:
        """A head has ended."""
        self._is_head_open = False
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, if the other parser can read its head."""
        longest = max((len(name) + len(value) for name, value in self.headers), default=0)
        if max(longest, len(self.url)) > WEBSOCKET_LINE_MAX or len(self.headers) > HEAD_LINES_MAX:
            self._refuse(431, b"a line of the handshake is too long, or there are too many\n")
            return
        self._stop_waiting()
        super().handle_websocket_upgrade()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._refuse_late)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_late(self) -> None:
        self._head_timer = None
        self._refuse(408, b"the request did not arrive in time\n")

    def _refuse(self, status: int, why: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(why) + why)
            self.transport.close()

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
