"""What the gateway asks of a transport, and what a transport tells the gateway when somebody comes."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import AccountId


class Ending(Enum):
    """Why a session ends: the close code of the plain WebSocket and a word for it."""

    LEFT = (1000, "left")
    SHUTTING_DOWN = (1001, "shutting_down")
    FAILED = (1011, "internal_error")
    MALFORMED = (4400, "malformed_frame")
    UNAUTHENTICATED = (4401, "unauthenticated")
    FORBIDDEN = (4403, "forbidden")
    TOO_SLOW = (4408, "too_slow")
    TOO_MANY = (4429, "rate_limited")

    @property
    def close_code(self) -> int:
        """The WebSocket close code."""
        return self.value[0]

    @property
    def word(self) -> str:
        """The stable code a client may look for."""
        return self.value[1]


class Refused(Exception):
    """The gateway does not open this session; nothing of it is kept.

    FAILED and SHUTTING_DOWN say "come back later" (database away, process ending): close the transport, so that
    clients try again by themselves. TOO_MANY, UNAUTHENTICATED, FORBIDDEN and MALFORMED are final until the client
    changes something. `str(refused)` is a sentence for people; it holds no secrets.
    """

    def __init__(self, ending: Ending, *, why: str, error: SteelyardError | None = None) -> None:
        super().__init__(why)
        self.ending = ending
        self.error = error
        """What the rest of the product says of it, where it says something."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a client says when it comes, as the transport found it; nothing of it has been believed yet."""

    transport: str
    """`socket.io`, `websocket` or `sse`, for metrics."""
    token: str | None
    origin: str | None = None
    user: str | None = None
    accounts: object = "primary"
    positions: object = field(default_factory=dict)
    """Account ids (text) to the `seq` seen last; checked by the gateway. None counts as empty."""
    host: str | None = None
    """The request's Host header: a page of this very server may always connect."""


class Transport(Protocol):
    """The side of a connection that the gateway speaks to. None of it waits."""

    def wake(self) -> None:
        """Know that `Session.take` may have something to send, where it had nothing before.

        May be called when there is nothing; take until it answers None. Must not raise.
        """
        ...

    def end(self, ending: Ending) -> None:
        """Tell the client why, as far as the transport can, and close; called at most once. Must not raise.

        The session is gone from the gateway already; nothing can be taken any more.
        """
        ...


Positions = dict[AccountId, int]
