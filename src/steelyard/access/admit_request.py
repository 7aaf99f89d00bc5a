"""The door of a hot route: who asks, and whether its role may what the route declares."""

from steelyard.access.guard_route import AccessServices
from steelyard.access.model import Principal
from steelyard.access.roles import require
from steelyard.runtime.hot_routes import HotRequest


async def admit(request: HotRequest) -> Principal:
    """Return who asks, if its role has the route's permission.

    Raises:
        Unauthenticated: No, bad, expired or revoked token or key.
        Forbidden: The role has not the permission.
        DatabaseUnavailable: Revocation could not be read; nobody is let in unchecked.
    """
    services: AccessServices = request.services
    principal = await services.authenticator.authenticate(request.authorization)
    request.principal = principal
    require(principal, request.permission)
    return principal
