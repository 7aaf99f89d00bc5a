"""The door of a hot route: who asks, and whether its role may what the route declares."""

from typing import Protocol

from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import Principal
from steelyard.access.remembered_callers import RememberedCallers
from steelyard.access.roles import require
from steelyard.runtime.hot_routes import HotRequest


class DoorServices(Protocol):
    """What the door needs of the process."""

    @property
    def authenticator(self) -> Authenticator: ...
    @property
    def callers(self) -> RememberedCallers: ...


async def admit(request: HotRequest) -> Principal:
    """Return who asks, if its role has the route's permission.

    Raises:
        Unauthenticated: No, bad, expired or revoked token or key.
        Forbidden: The role has not the permission.
        DatabaseUnavailable: Revocation could not be read; nobody is let in unchecked.
    """
    services: DoorServices = request.services
    principal = await services.authenticator.authenticate(request.authorization)
    request.principal = principal
    require(principal, request.permission)
    return principal


async def admit_reader(request: HotRequest) -> Principal:
    """As `admit`, for reads that have an answer while the database is away: a recent check counts then."""
    services: DoorServices = request.services
    scheme, _, credential = (request.authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated(Refusal.MISSING)
    principal = (await services.callers.authenticate(credential.strip(" "))).principal
    request.principal = principal
    require(principal, request.permission)
    return principal
