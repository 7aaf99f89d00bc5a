"""The route that follows a run with its public token, or signed in. As cheap as one indexed read, and not limited."""

from typing import Final, Protocol

from steelyard.access.api_keys import KEY_PREFIX
from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.jobs.seen_run import PublicRun
from steelyard.jobs.shapes import RunStatus, StatusQuery, tell_status
from steelyard.jobs.show_run import read_as, read_by_token
from steelyard.runtime.database import Database
from steelyard.runtime.health import PUBLIC
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.strict_json import read_query

TOKEN_LENGTH_MAX: Final = 4_096


class FollowServices(Protocol):
    """What this route needs of the process."""

    @property
    def database(self) -> Database: ...
    @property
    def authenticator(self) -> Authenticator: ...


async def show_status(request: HotRequest) -> Answer:
    """Tell where a run stands.

    With the run's own public token, as `Authorization: Bearer`, `?token=` or `?publicAccessToken=`; or signed in, to
    operators, services and admins, and to the user whose sync it is. Polling is not limited. A wrong id, a wrong token
    and a run of somebody else are the same `not_found`.
    """
    query = read_query(request.query, StatusQuery)
    token = _token_of(request, query)
    return Answer(200, encode_json(tell_status(await _read(request, query.id, token))))


async def _read(request: HotRequest, run: str, token: str) -> PublicRun:
    services: FollowServices = request.services
    if not _is_sign_in(token):
        return await read_by_token(services.database, run, token)
    principal = (await services.authenticator.check_credential(token)).principal
    request.principal = principal
    async with services.database.unit_of_work(principal.tenant) as uow:
        return await read_as(uow, principal, run)


def _token_of(request: HotRequest, query: StatusQuery) -> str:
    """Return the credential; the header goes before the address."""
    scheme, _, credential = (request.authorization or "").partition(" ")
    token = credential.strip(" ") if scheme.lower() == "bearer" else ""
    token = token or query.token or query.public_access_token or ""
    if not token:
        raise Unauthenticated(Refusal.MISSING)
    if len(token) > TOKEN_LENGTH_MAX:
        raise Unauthenticated(Refusal.TOO_LARGE)
    return token


def _is_sign_in(token: str) -> bool:
    """Whether it is a signed token or an API key: a public token has no dots and no such beginning."""
    return token.startswith(KEY_PREFIX) or token.count(".") == 2


FOLLOW_ROUTES: Final = (
    HotRoute(
        "/api/jobs/status",
        show_status,
        method="GET",
        permission=PUBLIC,
        operation=Operation(
            "Follow a run with its public token.",
            "runs",
            {200: RunStatus},
            ("not_found", "unauthenticated"),
            query=StatusQuery,
        ),
    ),
)
