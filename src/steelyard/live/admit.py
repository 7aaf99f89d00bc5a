"""Who may open a session, and whose screen it shows. Nothing a client says chooses a room: its token does."""

from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import Forbidden, Unauthenticated
from steelyard.access.model import Authentication, Principal, Role
from steelyard.access.roles import Permission, require
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, InvalidInput
from steelyard.core.ids import AccountId, UserId, parse_user_id
from steelyard.live.transport import Ending, Hello, Positions, Refused

WARN_BEFORE = timedelta(seconds=60)
POSITIONS_MAX = 100
_LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class Origins:
    """Which web pages may connect: those of this server, those named, and in embedded mode those of this machine."""

    named: frozenset[str] = frozenset()
    allows_localhost: bool = False

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Say whether a page of this origin may connect; a client that names none is no browser and may."""
        if origin is None:
            return True
        if origin.lower() in self.named:
            return True
        try:
            parts = urlsplit(origin.lower())
            name = parts.hostname
        except ValueError:
            return False
        if parts.scheme not in ("http", "https") or name is None:
            return False
        if self.allows_localhost and name in _LOCAL_HOSTS:
            return True
        return host is not None and parts.netloc == host.lower()


def parse_origins(text: str | None) -> frozenset[str]:
    """Read origins separated by commas, as browsers write them: `https://app.example.com`."""
    return frozenset(
        one.strip().rstrip("/").lower() for one in (text or "").split(",") if one.strip()
    )


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who came, and what the session shows."""

    principal: Principal
    user: UserId
    credential: str
    authentication: Authentication
    wants_all: bool
    positions: Positions


async def admit(
    hello: Hello, authenticator: Authenticator, clock: Clock, *, origins: Origins
) -> Admitted:
    """Check everything a client says when it comes.

    Raises:
        Refused: It may not come in; `ending` says why.
    """
    if not origins.allows(hello.origin, hello.host):
        raise Refused(Ending.FORBIDDEN, why="pages of this origin may not connect")
    if not hello.token:
        raise Refused(Ending.UNAUTHENTICATED, why="a token is needed")
    wants_all = read_accounts(hello.accounts)
    positions = read_positions(hello.positions)
    authentication = await check_token(hello.token, authenticator, clock)
    principal = authentication.principal
    try:
        require(principal, Permission.LIVE_CONNECT)
    except Forbidden as error:
        raise Refused(Ending.FORBIDDEN, why=str(error), error=error) from None
    user = _screen_of(principal, hello.user)
    return Admitted(principal, user, hello.token, authentication, wants_all, positions)


async def check_token(token: str, authenticator: Authenticator, clock: Clock) -> Authentication:
    """Return whose token this is; one that has ended is refused without leeway, since a session ends then.

    Raises:
        Refused: It is bad, expired or revoked, or nobody could say.
    """
    try:
        found = await authenticator.check_credential(token)
    except Unauthenticated as error:
        raise Refused(Ending.UNAUTHENTICATED, why=str(error), error=error) from None
    except DatabaseUnavailable as error:
        raise Refused(Ending.FAILED, why=str(error), error=error) from None
    if found.expires_at is not None and clock.now() >= found.expires_at:
        raise Refused(Ending.UNAUTHENTICATED, why="the token has expired; nothing was done")
    return found


def _screen_of(principal: Principal, named: str | None) -> UserId:
    """Return whose screen it is: a user's own, or the one that an operator, admin or service names."""
    if named is None:
        if principal.user is None:
            raise Refused(Ending.FORBIDDEN, why="an API key has no screen: name a `user`")
        return principal.user
    try:
        user = parse_user_id(named)
    except InvalidInput as error:
        raise Refused(Ending.MALFORMED, why=str(error), error=error) from None
    if principal.role is Role.USER and user != principal.user:
        raise Refused(Ending.FORBIDDEN, why="a user sees its own screen only")
    return user


def read_accounts(value: object) -> bool:
    """Return whether all accounts of the user are meant, not its primary one.

    Raises:
        Refused: It is neither `primary` nor `all`.
    """
    if value in (None, "", "primary"):
        return False
    if value == "all":
        return True
    raise Refused(Ending.MALFORMED, why='accounts: must be "primary" or "all"')


def read_positions(value: object) -> Positions:
    """Return positions by account.

    Raises:
        Refused: It is not an object of account ids and numbers, or has more than 100 of them.
    """
    if value in (None, ""):
        return {}
    if not isinstance(value, dict) or len(value) > POSITIONS_MAX:
        raise Refused(Ending.MALFORMED, why="positions: must be an object of at most 100 accounts")
    found: Positions = {}
    for account, seq in value.items():
        if not _is_number(account) or isinstance(seq, bool) or not isinstance(seq, int):
            raise Refused(Ending.MALFORMED, why="positions: must map account ids to numbers")
        if not 0 <= seq < 2**63:
            raise Refused(Ending.MALFORMED, why="positions: a number is out of range")
        found[AccountId(int(account))] = seq
    return found


def _is_number(text: object) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
