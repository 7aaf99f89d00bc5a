"""Builds one process from settings: the only file that imports everything."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from steelyard import __version__
from steelyard.access.api import router as access_router
from steelyard.access.authenticate import Authenticator
from steelyard.access.guard import check_database
from steelyard.access.open_authenticator import open_authenticator
from steelyard.access.page_sessions import PageSessions
from steelyard.access.remembered_callers import RememberedCallers
from steelyard.balances.account_owners import KnownOwners
from steelyard.balances.api import ROUTES as BALANCE_ROUTES
from steelyard.balances.known_currencies import KnownCurrencies
from steelyard.balances.last_known import READ_DEADLINE_S, LastKnownBalances
from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.ids import IdSource, TenantId
from steelyard.jobs.api import router as jobs_router
from steelyard.jobs.follow import FOLLOW_ROUTES
from steelyard.jobs.open_jobs import Jobs
from steelyard.jobs.readings import job_readings
from steelyard.ledger.api import ROUTES as LEDGER_ROUTES
from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.operations import Ledger
from steelyard.ledger.publish import PublishChanges
from steelyard.ledger.sweep_holds import HoldSweeper
from steelyard.live.figures import live_readings
from steelyard.live.gateway import LivePorts
from steelyard.live.open_gateway import Live
from steelyard.live.page import PAGE_ROUTES
from steelyard.live.sse import STREAM_ROUTES
from steelyard.reconcile.api import router as reconcile_router
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.cache import BalanceCache, InProcessCache
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.collector import spare_what_stays
from steelyard.runtime.database import Database
from steelyard.runtime.docs_page import DOCS_ROUTES
from steelyard.runtime.edge import Edge, edge_limits
from steelyard.runtime.errors_out import start_error_reports, stop_error_reports
from steelyard.runtime.health import HEALTH_ROUTES
from steelyard.runtime.hot_routes import HotRoute, HotTable
from steelyard.runtime.ids import RandomIds
from steelyard.runtime.logs import AccessLog, configure_logs
from steelyard.runtime.metrics import Family, Figures
from steelyard.runtime.migrate import SchemaBehind, newest_revision
from steelyard.runtime.openapi import compose
from steelyard.runtime.readings import ledger_readings, runtime_readings
from steelyard.runtime.redis import RedisLink, RedisPorts
from steelyard.runtime.redis.from_settings import open_redis_of, relay_beside
from steelyard.runtime.redis.readings import redis_readings
from steelyard.runtime.relay import Relay
from steelyard.runtime.repeat import repeat
from steelyard.runtime.server_options import options_of_server
from steelyard.runtime.settings import Settings, load_settings
from steelyard.schedules.api import router as schedules_router
from steelyard.schedules.readings import schedule_readings
from steelyard.schedules.run_schedules import Scheduler
from steelyard.sync.api import router as sync_router
from steelyard.sync.control_api import router as sync_control_router
from steelyard.sync.open_sync import BalanceSync, SyncParts
from steelyard.sync.readings import sync_readings
from steelyard.sync.users_api import router as synced_users_router
from steelyard.work import known_kinds, open_work  # noqa: F401 - commands ask this module for the first

_log = structlog.get_logger()
DRAIN = timedelta(seconds=5)
LEDGERS_MAX = 10_000
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HOT_ROUTES: tuple[HotRoute, ...] = (
    *LEDGER_ROUTES,
    *BALANCE_ROUTES,
    *HEALTH_ROUTES,
    *DOCS_ROUTES,
    *PAGE_ROUTES,
    *STREAM_ROUTES,
    *FOLLOW_ROUTES,
)


@dataclass(frozen=True, slots=True)
class Services:
    """What one process works with; `app.state.steelyard` while it runs."""

    settings: Settings
    clock: Clock
    ids: IdSource
    database: Database
    authenticator: Authenticator
    callers: RememberedCallers
    bus: InProcessBus
    cache: BalanceCache
    redis: RedisLink | None
    """What other processes hear by; None where this one keeps cache and channel to itself."""
    reader: BalanceReader
    last_known: LastKnownBalances
    currencies: KnownCurrencies
    commit: GroupCommit
    relay: Relay
    sweeper: HoldSweeper
    figures: Figures
    live: Live
    sync: BalanceSync
    jobs: Jobs
    scheduler: Scheduler
    document: Callable[[], dict[str, Any]]
    """The OpenAPI document."""
    page_sessions: PageSessions | None
    """What opens the live page by a one-time code; only in `up`."""
    _ledgers: dict[TenantId, Ledger] = field(default_factory=dict)

    def ledger(self, tenant: TenantId) -> Ledger:
        """Return the ledger of a tenant."""
        found = self._ledgers.get(tenant)
        if found is None:
            if len(self._ledgers) >= LEDGERS_MAX:
                self._ledgers.clear()
            found = Ledger(tenant, self.database, self.commit, self.reader, self.clock, self.ids)
            self._ledgers[tenant] = found
        return found


@asynccontextmanager
async def open_services(
    settings: Settings,
    *,
    database_url: str | None = None,
    made_secret: str | None = None,
    figures: Figures | None = None,
    document: Callable[[], dict[str, Any]] | None = None,
    page_sessions: PageSessions | None = None,
    starts_sync: bool = True,
) -> AsyncIterator[Services]:
    """Open everything a process works with, and close it in order: drain the ledger, then the pool.

    Args:
        settings: As read from the environment.
        database_url: Where to log in as the application's role; `settings.database_url` if absent.
        made_secret: The data folder's token secret, for HS256 without a shared file.
        starts_sync: Whether this process works in the background, unless `settings.work` says no.
    Raises:
        DatabaseUnavailable: The database does not answer.
        SchemaBehind: Its schema is not this release's.
        UnsafeDatabase, UnsafeSettings, KeySetUnavailable: See `access`.
    """
    url = database_url or (settings.database_url and settings.database_url.get_secret_value())
    if not url:
        raise ValueError("no database: give database_url or set STEELYARD_DATABASE_URL")
    bus, clock, ids = InProcessBus(), SystemClock(), RandomIds()
    async with AsyncExitStack() as closing:
        database = await closing.enter_async_context(_open_database(url, settings.pool_size))
        authenticator = await open_authenticator(database, settings, clock, made_secret=made_secret)
        redis_ports = RedisPorts(bus, KnownOwners(database, clock), clock)
        redis = await closing.enter_async_context(open_redis_of(settings, database, redis_ports))
        cache: BalanceCache = redis.cache if redis else InProcessCache(clock)
        deadline = timedelta(milliseconds=settings.commit_deadline_ms)
        publish = PublishChanges(bus, cache, clock)
        commit = GroupCommit(url, clock, publish, settings.commit_queue_limit, deadline)
        closing.push_async_callback(commit.close, drain=DRAIN)
        reader = BalanceReader(database, cache, clock)
        hurried = BalanceReader(database, cache, clock, READ_DEADLINE_S)
        ports = LivePorts(database, reader, authenticator, bus, clock)
        live = _open_live(settings, ports, redis, is_embedded=made_secret is not None)
        closing.push_async_callback(live.close)
        parts = SyncParts(settings, database, clock, ids, bus, cache)
        opening = open_work(parts, url, works=starts_sync and settings.work)
        work = await closing.enter_async_context(opening)
        services = Services(
            settings=settings,
            clock=clock,
            ids=ids,
            database=database,
            authenticator=authenticator,
            callers=RememberedCallers(authenticator, clock),
            bus=bus,
            cache=cache,
            redis=redis,
            reader=reader,
            last_known=LastKnownBalances(hurried, clock),
            currencies=KnownCurrencies(reader),
            commit=commit,
            relay=relay_beside(redis, Relay(database, bus, clock, cache=cache)),
            sweeper=HoldSweeper(database, commit, clock),
            figures=figures or Figures(),
            live=live,
            sync=work.sync,
            jobs=work.jobs,
            scheduler=work.scheduler,
            document=document or openapi_document,
            page_sessions=page_sessions,
        )
        bus.subscribe(services.relay.confirm)
        services.figures.add(_readings(services))
        closing.push_async_callback(_stop, _start_tasks(services))
        yield services


@asynccontextmanager
async def _open_database(url: str, pool_size: int) -> AsyncIterator[Database]:
    """Open a pool on a database that is safe to use."""
    database = await Database.open(url, pool_size=pool_size)
    try:
        await _check_schema(database)
        await check_database(database)
        yield database
    finally:
        await database.close()


def _open_live(
    settings: Settings, ports: LivePorts, redis: RedisLink | None, *, is_embedded: bool
) -> Live:
    """Open the live gateway, and have Redis tell it what to look at sooner."""
    allows_localhost = is_embedded or settings.host in LOOPBACK
    live = Live.open(ports, settings, allows_localhost=allows_localhost)
    if redis is not None:
        redis.hearing.suspect, redis.hearing.resumed = live.gateway.suspect, live.gateway.resumed
    return live


async def _check_schema(database: Database) -> None:
    needed = newest_revision()
    found = await database.fetchval("SELECT version_num FROM steelyard.alembic_version")
    if found != needed:
        raise SchemaBehind(found=found, needed=needed)


def _start_tasks(services: Services) -> list[asyncio.Task[None]]:
    settings = services.settings
    return [
        asyncio.create_task(repeat(name, act, every_s=every_ms / 1000), name=name)
        for name, act, every_ms in (
            ("relay", services.relay.run_once, settings.relay_interval_ms),
            ("hold sweeper", services.sweeper.sweep, settings.hold_sweep_interval_ms),
        )
    ]


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _readings(services: Services) -> list[Family]:
    return [
        *ledger_readings(services.commit, services.sweeper),
        *runtime_readings(services.database, services.relay, services.bus),
        *redis_readings(services.redis),
        *live_readings(services.live.gateway.figures),
        *job_readings(services.jobs.figures),
        *schedule_readings(services.scheduler),
        *sync_readings(services.sync),
    ]


class Application(FastAPI):
    """The HTTP application: the edge in front, the framework behind it."""

    edge: Edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        live: Live | None = self.edge.services and self.edge.services.live
        if live is not None and live.takes(scope):
            await live(scope, receive, send)
            return
        scope["app"] = self
        await self.edge(scope, receive, send)

    async def end_live(self) -> None:
        """End every live session: their clients go and come back elsewhere. The server calls it when it is to end."""
        services: Services | None = self.edge.services
        if services is not None:
            await services.live.close()

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document, hot routes included."""
        if self.openapi_schema is None:
            routes = [route for route in self.routes if isinstance(route, HotRoute)]
            self.openapi_schema = compose(super().openapi(), routes, permissions_of(self.routes))
        return self.openapi_schema


def create_app(
    settings: Settings,
    *,
    database_url: str | None = None,
    made_secret: str | None = None,
    page_sessions: PageSessions | None = None,
) -> Application:
    """Build the application; its services are opened when the server starts it and closed when it ends.

    Args: as `open_services`.
    """
    figures = Figures()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            async with open_services(
                settings,
                database_url=database_url,
                made_secret=made_secret,
                figures=figures,
                document=application.openapi,
                page_sessions=page_sessions,
            ) as services:
                app.state.steelyard = application.edge.services = services
                spare_what_stays()
                _log.info("server.started", release=__version__)
                yield
                application.edge.is_closing = True
            _log.info("server.stopped")
        finally:
            application.edge.access_log.flush()
            stop_error_reports()

    application = Application(
        title="Steelyard",
        version=__version__,
        description="Money balances that are true and live.",
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    application.router.routes.extend(HOT_ROUTES)
    application.include_router(access_router)
    application.include_router(reconcile_router)
    application.include_router(sync_router)
    application.include_router(schedules_router)
    application.include_router(jobs_router)
    application.include_router(sync_control_router)
    application.include_router(synced_users_router)
    application.edge = Edge(
        AsyncExitStackMiddleware(application.router),
        HotTable(HOT_ROUTES),
        None,
        edge_limits(settings),
        figures.requests,
        AccessLog(settings.log_format, sys.stderr, settings.log_level in ("debug", "info")),
    )
    return application


def create_app_from_environment() -> Application:
    """Build the application as `uvicorn --factory` calls it: settings, logs and error reports from the environment."""
    settings = load_settings()
    configure_logs(form=settings.log_format, level=settings.log_level)
    dsn = settings.sentry_dsn and settings.sentry_dsn.get_secret_value()
    start_error_reports(dsn or None, release=__version__)
    return create_app(settings)


def server_options(settings: Settings) -> dict[str, Any]:
    """Return what `uvicorn.Config` is given beside the application."""
    return options_of_server(settings)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of this release, as checked in as `docs/openapi.json`."""
    return create_app(Settings()).openapi()


def permissions_of(routes: list[BaseRoute]) -> dict[str, str]:
    """Return the permission each route declares, by `METHOD path`; one that declares none is not in it."""
    found: dict[str, str] = {}
    for context in iter_route_contexts(routes):
        route = context.original_route
        permission = getattr(route, "permission", None)
        dependant = getattr(context, "dependant", None) or getattr(route, "dependant", None)
        for dependency in getattr(dependant, "dependencies", ()):
            permission = permission or getattr(dependency.call, "permission", None)
        for method in getattr(route, "methods", None) or ():
            if permission is not None:
                found[f"{method} {getattr(route, 'path', '')}"] = permission
    return found
