"""Whether the process lives, whether it can serve, and its figures. Public: they say nothing of anyone's money."""

import asyncio
from typing import Final, Protocol

import msgspec

from steelyard.core.errors import DatabaseUnavailable
from steelyard.runtime.database import Database
from steelyard.runtime.hot_routes import Answer, HotRequest, HotRoute, Operation, encode_json
from steelyard.runtime.metrics import Figures
from steelyard.runtime.migrate import newest_revision

PUBLIC: Final = "public"
"""What a route declares that asks for no permission."""

READY_DEADLINE_S = 1.0


class HealthServices(Protocol):
    """What these routes need of the process."""

    @property
    def database(self) -> Database: ...
    @property
    def figures(self) -> Figures: ...


class Health(msgspec.Struct, omit_defaults=True):
    """`ready` or the reason why not."""

    status: str
    reason: str | None = None
    revision: str | None = None


async def show_alive(_: HotRequest) -> Answer:
    """Say that the process answers; asks nobody."""
    return Answer(200, b'{"status":"alive"}')


async def show_ready(request: HotRequest) -> Answer:
    """Say whether money can move: the database answers and its schema is this release's."""
    services: HealthServices = request.services
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            found = await services.database.fetchval(
                "SELECT version_num FROM steelyard.alembic_version"
            )
    except (DatabaseUnavailable, TimeoutError):
        return Answer(503, encode_json(Health("unavailable", "the database does not answer")))
    needed = newest_revision()
    if found != needed:
        reason = f"the schema is at {found}, this release needs {needed}; run `steelyard migrate`"
        return Answer(503, encode_json(Health("unavailable", reason, found)))
    return Answer(200, encode_json(Health("ready", revision=found)))


async def show_figures(request: HotRequest) -> Answer:
    """Answer the figures as Prometheus reads them."""
    services: HealthServices = request.services
    text, media_type = services.figures.render()
    return Answer(200, text, ((b"content-type", media_type.encode()),))


HEALTH_ROUTES = tuple(
    HotRoute(
        path,
        handler,
        method="GET",
        permission=PUBLIC,
        operation=Operation(summary, "operation", answers),
    )
    for path, handler, summary, answers in (
        ("/livez", show_alive, "Whether the process answers.", {200: Health}),
        ("/readyz", show_ready, "Whether it can serve.", {200: Health, 503: Health}),
        ("/metrics", show_figures, "Figures for Prometheus.", {200: str}),
    )
)
