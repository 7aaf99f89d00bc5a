"""One-time codes that open the live page, and the tokens a code is exchanged for.

Whoever may read the data folder may make a code, as with `steelyard token`. A code is 192 random bits, valid for
ten minutes and for one exchange. Only its SHA-256 is kept: it is the name of a file in the folder, so taking a
code is removing its file, which succeeds once, whichever process does it; and looking one up by a hash tells
nothing of any other.
"""

import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, issue_token
from steelyard.core.clock import Clock
from steelyard.core.errors import Retry, SteelyardError
from steelyard.core.ids import DEFAULT_TENANT, UserId
from steelyard.runtime.datafolder import ProductFolder
from steelyard.runtime.embedded.folder import explained, give_to_owner, write_private

CODE_BYTES: Final = 24
CODE_LIFETIME: Final = timedelta(minutes=10)
CODES_MAX: Final = 100
SESSION_LIFETIME: Final = timedelta(hours=12)
REFUSALS_MAX: Final = 20
REFUSALS_WINDOW_S: Final = 60.0
ASKS, DECIDES = UserId("live-page-desk"), UserId("live-page-admin")


class PageCodeRefused(SteelyardError):
    """The code opens nothing: never made, used before, or too old."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("this address was opened before, or is older than ten minutes")


class TooManyCodes(SteelyardError):
    """Too many codes were refused lately; the next ones are not looked at."""

    code = "rate_limited"
    retry = Retry.LATER

    def __init__(self, *, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"too many addresses were refused in the last minute; try again in {retry_after_s:.0f} s"
        )


@dataclass(frozen=True, slots=True)
class PageTokens:
    """Two principals, because nobody approves a top-up of its own: one asks and charges, the other decides and looks."""

    service: str
    admin: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PageCodes:
    """The codes of one data folder."""

    folder: ProductFolder

    def make(self, now: datetime) -> str:
        """Return a new code. Of unused ones the newest 100 are kept.

        Raises:
            DataFolderUnusable: It cannot be written.
        """
        place = self._place
        with explained(self.folder.folder):
            if not place.exists():
                place.mkdir(mode=0o700)
                give_to_owner(place)
            self._forget_old(now)
            code = secrets.token_urlsafe(CODE_BYTES)
            write_private(self._file(code), f"{(now + CODE_LIFETIME).timestamp()}\n")
        return code

    def take(self, code: str, now: datetime) -> None:
        """Use a code up.

        Raises:
            PageCodeRefused: It opens nothing, or not any more.
        """
        file = self._file(code)
        ends_s = _read_end_s(file)
        try:
            file.unlink()  # of two who come at once, one finds it gone
        except OSError:
            raise PageCodeRefused from None
        if now.timestamp() >= ends_s:
            raise PageCodeRefused

    @property
    def _place(self) -> Path:
        return self.folder.path / "page-codes"

    def _file(self, code: str) -> Path:
        return self._place / sha256(code.encode("utf-8", "surrogatepass")).hexdigest()

    def _forget_old(self, now: datetime) -> None:
        found = sorted(((_read_end_s(file), file) for file in self._place.iterdir()), reverse=True)
        for number, (ends_s, file) in enumerate(found, start=1):
            if number >= CODES_MAX or ends_s <= now.timestamp():
                file.unlink(missing_ok=True)


def _read_end_s(file: Path) -> float:
    """Return when a code ends, seconds since 1970; 0 for a file that is none."""
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0


@dataclass(slots=True)
class PageSessions:
    """Exchanges codes for tokens of the default tenant, signed as `steelyard token` signs."""

    codes: PageCodes
    rules: TokenRules
    key: bytes
    clock: Clock
    _refused_s: deque[float] = field(default_factory=deque)

    def open(self, code: str) -> PageTokens:
        """Return tokens for twelve hours; the code is used up.

        Raises:
            PageCodeRefused: The code opens nothing.
            TooManyCodes: More than 20 were refused within a minute; this one stays as it is.
        """
        now_s, refused_s = self.clock.monotonic_s(), self._refused_s
        while refused_s and refused_s[0] <= now_s - REFUSALS_WINDOW_S:
            refused_s.popleft()
        if len(refused_s) >= REFUSALS_MAX:
            raise TooManyCodes(retry_after_s=refused_s[0] + REFUSALS_WINDOW_S - now_s)
        now = self.clock.now()
        try:
            self.codes.take(code, now)
        except PageCodeRefused:
            refused_s.append(now_s)
            raise
        return PageTokens(
            self._sign(ASKS, Role.SERVICE, now),
            self._sign(DECIDES, Role.ADMIN, now),
            now + SESSION_LIFETIME,
        )

    def _sign(self, user: UserId, role: Role, now: datetime) -> str:
        order = TokenOrder(DEFAULT_TENANT, user, role, SESSION_LIFETIME)
        return issue_token(order, rules=self.rules, key=self.key, now=now)
