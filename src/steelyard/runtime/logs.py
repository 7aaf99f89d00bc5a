"""Logs: an event name and fields, one line each, JSON or for the eye. Nothing secret, no query strings.

structlog carries every event. The line per request would pay for a whole chain of processors each time,
so `AccessLog` writes it directly, in the same shape and to the same stream, in batches.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec
import structlog

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request at hand; every event logged meanwhile carries it."""

HIDDEN = "[hidden]"
_SECRET_WORDS = ("authorization", "token", "password", "secret", "cookie", "dsn")
_SECRET_NAMES = frozenset({"key", "api_key", "apikey", "private_key", "idempotency_key", "jwt"})
FLUSH_AFTER_S = 0.05
FLUSH_AT_LINES = 256

Event = MutableMapping[str, Any]


def is_secret(name: str) -> bool:
    """Say whether a field of this name is hidden in logs and error reports."""
    lowered = name.lower().replace("-", "_")
    return lowered in _SECRET_NAMES or any(word in lowered for word in _SECRET_WORDS)


def hide_in_text(text: str) -> str:
    """Return text with what follows `token=` (also at the end of a longer name) and `Bearer ` hidden."""
    for mark in ("token=", "Token=", "Bearer ", "bearer "):
        if mark in text:
            first, *others = text.split(mark)
            text = first + "".join(mark + HIDDEN + _after_secret(other) for other in others)
    return text


def _after_secret(text: str) -> str:
    for place, letter in enumerate(text):
        if letter in " &\"'\n,;)}]":
            return text[place:]
    return ""


def hide(value: object, name: str = "") -> object:
    """Return a value without secrets, at any depth of mappings and lists."""
    if name and is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return hide_in_text(value)
    if isinstance(value, Mapping):
        return {one: hide(inner, str(one)) for one, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide(inner) for inner in value]
    return value


def _hide_secrets(_: object, __: str, event: Event) -> Event:
    for name, value in event.items():
        if name != "event":
            event[name] = hide(value, name)
    return event


def _add_request_id(_: object, __: str, event: Event) -> Event:
    request_id = REQUEST_ID.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


# Frames without their variables: those hold keys, passwords and tokens under any name.
_traceback_without_values = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def configure_logs(
    *,
    form: Literal["console", "json"],
    level: Literal["debug", "info", "warning", "error"],
    stream: TextIO | None = None,
) -> None:
    """Set how this process logs; what libraries log goes the same way."""
    out = stream if stream is not None else sys.stderr
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Callable[..., Any]]
    if form == "json":
        last = [
            _traceback_without_values,
            _hide_secrets,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last = [_hide_secrets, renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(logging.getLevelNamesMapping()[level.upper()], logging.WARNING))


class _ToStructlog(logging.Handler):
    """Hands what libraries log with the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(
            record.levelno,
            "library.message",
            logger=record.name,
            message=hide_in_text(record.getMessage()),
            exc_info=record.exc_info or None,
        )


class AccessLine(msgspec.Struct, omit_defaults=True):
    """One request as the log tells it."""

    event: str
    level: str
    timestamp: str
    request_id: str
    method: str
    path: str
    route: str
    status: int
    duration_ms: float
    tenant: str | None = None
    subject: str | None = None
    code: str | None = None


@dataclass(slots=True)
class AccessLog:
    """Writes a line per request, some at a time: at the latest 50 ms after the request.

    With the console format each line goes through structlog as it is.
    """

    form: Literal["console", "json"]
    stream: TextIO
    enabled: bool = True
    _lines: list[bytes] = field(default_factory=list)
    _second: int = 0
    _text: str = ""
    _encode: Callable[[AccessLine], bytes] = msgspec.json.Encoder().encode

    def write(self, line: AccessLine, now_s: float) -> None:
        """Take a line; `now_s` is seconds since 1970, UTC."""
        second = int(now_s)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        line.timestamp = f"{self._text}.{int((now_s - second) * 1e6):06d}Z"
        if self.form == "console":
            fields = {name: value for name, value in msgspec.structs.asdict(line).items() if value}
            structlog.get_logger().info(fields.pop("event"), **fields)
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)
        self._lines.append(self._encode(line))
        if len(self._lines) >= FLUSH_AT_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._lines:
            return
        text = b"\n".join(self._lines).decode() + "\n"
        self._lines.clear()
        self.stream.write(text)
        self.stream.flush()
