"""Frames of Engine.IO 4 and Socket.IO 5 on `/balance`: read strictly before a library sees them, and written.

python-engineio reads the JSON of any packet before it knows its type, and python-socketio keeps attachments until all have
come. What passes here is text, small, shallow and of a kind that this server answers to.

Source: github.com/socketio/engine.io-protocol and socket.io-protocol (v4 and v5), read 2026-11-20.
"""

import json
from dataclasses import dataclass
from enum import Enum

from steelyard.live.limits import FRAME_BYTES_MAX

NAMESPACE = "/balance"
EVENT_BEFORE = f'42{NAMESPACE},["'
EVENT_BETWEEN = '",'
EVENT_AFTER = "]"
DISCONNECT_FRAME = f"41{NAMESPACE},"
CLOSE_FRAME = "1"

PACKETS_LIMIT = 64
"""Packets in one POST."""
DEPTH_LIMIT = 12
_DIGITS_LIMIT = 15
_NAME_LIMIT = 100
_SEPARATOR = "\x1e"
_BARE = frozenset(("1", "2probe", "3", "3probe", "5"))
"""close, the probe of an upgrade, pong, upgrade: nothing else goes with them."""
_KINDS = frozenset(("0", "1", "2"))
"""connect, disconnect, event: an acknowledgement is never asked for, and nothing binary is."""
_RESERVED = frozenset(("connect", "connect_error", "disconnect", "disconnecting"))


class MalformedFrame(ValueError):
    """A client sent what this server has no answer to; the message says what, without its content."""

    code = "malformed_frame"


class Kind(Enum):
    """What a Socket.IO packet asks for."""

    CONNECT = "0"
    DISCONNECT = "1"
    EVENT = "2"


@dataclass(frozen=True, slots=True)
class Message:
    """A Socket.IO packet that was read: its kind, its namespace, the name of an event, its data."""

    kind: Kind
    namespace: str = "/"
    name: str = ""
    data: object = None
    number: int | None = None
    """With it the client asks for an acknowledgement."""


def split_payload(body: bytes) -> list[str]:
    """Return the packets in the body of a POST.

    Raises:
        MalformedFrame: Not text, or more than `PACKETS_LIMIT`.
    """
    try:
        packets = body.decode().split(_SEPARATOR)
    except UnicodeDecodeError:
        raise MalformedFrame("the body is not UTF-8 text") from None
    if len(packets) > PACKETS_LIMIT:
        raise MalformedFrame(f"a request may carry {PACKETS_LIMIT} packets, not {len(packets)}")
    return packets


def check_frame(frame: str | None) -> None:
    """Check one Engine.IO packet from outside; None is binary data.

    Raises:
        MalformedFrame: Too large, binary, or of a type or with data that no client of this server sends.
    """
    if frame is None:
        raise MalformedFrame("binary data is not understood here")
    if len(frame) > FRAME_BYTES_MAX or len(frame.encode(errors="replace")) > FRAME_BYTES_MAX:
        raise MalformedFrame(f"a frame may have {FRAME_BYTES_MAX} bytes")
    if frame in _BARE:
        return
    if not frame.startswith("4"):
        raise MalformedFrame("this type of packet is not understood here")
    if frame[1:2] not in _KINDS:
        raise MalformedFrame("binary data and answers are not understood here")


def read_message(text: str) -> Message:
    """Read the Socket.IO packet inside a frame that `check_frame` let pass.

    Raises:
        MalformedFrame: JSON that is not of the expected shape, or nested deeper than `DEPTH_LIMIT`.
    """
    if text[:1] not in _KINDS:
        raise MalformedFrame("binary data and answers are not understood here")
    kind = Kind(text[0])
    namespace, rest = _read_namespace(text[1:])
    if kind is Kind.CONNECT:
        return Message(kind, namespace, data=_read_json(rest) if rest else None)
    if kind is Kind.DISCONNECT:
        return Message(kind, namespace)
    return Message(kind, namespace, *_read_event(rest))


def _read_namespace(rest: str) -> tuple[str, str]:
    if not rest.startswith("/"):
        return "/", rest
    name, _, after = rest.partition(",")
    if len(name) > _NAME_LIMIT:
        raise MalformedFrame("the name of the namespace is too long")
    return name.partition("?")[0], after


def _read_event(rest: str) -> tuple[str, object, int | None]:
    digits = len(rest) - len(rest.lstrip("0123456789"))
    if digits > _DIGITS_LIMIT:
        raise MalformedFrame("the number of an event is too long")
    found = _read_json(rest[digits:])
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise MalformedFrame("an event is a list that begins with its name")
    if found[0] in _RESERVED or len(found[0]) > _NAME_LIMIT:
        raise MalformedFrame("this name is not one of an event")
    number = int(rest[:digits]) if digits else None
    return found[0], found[1] if len(found) > 1 else None, number


def _read_json(text: str) -> object:
    try:
        found: object = json.loads(text, parse_constant=_refuse_number, parse_int=_read_int)
    except (ValueError, RecursionError):
        raise MalformedFrame("the data is not JSON") from None
    _check_depth(found)
    return found


def _refuse_number(text: str) -> float:
    raise ValueError(text)


def _read_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("no number here has so many digits")
    return int(digits)


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for one in level
            if isinstance(one, list | dict)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise MalformedFrame(f"the data is nested deeper than {DEPTH_LIMIT} levels")


def connect_error_frame(namespace: str, message: str, code: str) -> str:
    """Return the packet that refuses a namespace; clients find `message` and `data.code` in their error."""
    error = json.dumps({"message": message, "data": {"code": code}}, separators=(",", ":"))
    return f"44{namespace},{error}" if namespace != "/" else f"44{error}"


def error_frame(code: str, message: str) -> str:
    """Return the event `error` on `/balance`."""
    payload = json.dumps({"code": code, "message": message}, separators=(",", ":"))
    return f"{EVENT_BEFORE}error{EVENT_BETWEEN}{payload}{EVENT_AFTER}"


def acknowledgement_frame(number: int, answer: str) -> str:
    """Return the acknowledgement of an event; `answer` is JSON text."""
    return f"43{NAMESPACE},{number}[{answer}]"
