"""The door of a route: who asks, and whether its role may.

`requires("money:charge")` is a FastAPI dependency that answers the principal. It carries
`.permission`, which a test reads from every route: one without it fails that test.
"""

from dataclasses import dataclass
from typing import Protocol, cast

from starlette.requests import Request

from steelyard.access.authenticate import Authenticator
from steelyard.access.model import Principal
from steelyard.access.roles import ALLOWED, require
from steelyard.core.clock import Clock
from steelyard.runtime.database import Database


class AccessServices(Protocol):
    """What this slice's routes need of `app.state.steelyard`."""

    @property
    def database(self) -> Database: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def authenticator(self) -> Authenticator: ...


def services_of(request: Request) -> AccessServices:
    """Return the services the process was built with."""
    return cast(AccessServices, request.app.state.steelyard)


async def authenticate_request(request: Request) -> Principal:
    """Return who asks, once per request; kept in `request.state.principal`.

    Raises:
        Unauthenticated: No, bad, expired or revoked token or key.
        DatabaseUnavailable: Revocation could not be read; nobody is let in unchecked.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is None:
        known = await services_of(request).authenticator.authenticate(
            request.headers.get("authorization")
        )
        request.state.principal = known
    return known


@dataclass(frozen=True, slots=True)
class Requires:
    """A dependency that lets in whoever has `permission` and answers the principal."""

    permission: str

    async def __call__(self, request: Request) -> Principal:
        """Authenticate and check.

        Raises:
            Unauthenticated: Nobody known asks.
            Forbidden: The role may not.
        """
        principal = await authenticate_request(request)
        require(principal, self.permission)
        return principal


def requires(permission: str) -> Requires:
    """Return the dependency for one permission of the table in `roles.py`.

    Raises:
        ValueError: There is no such permission; a slip in the code, seen when it is imported.
    """
    if permission not in ALLOWED:
        raise ValueError(f"there is no permission {permission!r}; add it to access/roles.py")
    return Requires(permission)
