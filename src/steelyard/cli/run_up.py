"""What `steelyard up` does, step by step, and undoes in reverse order."""

import asyncio
import hashlib
import os
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from steelyard.access.open_authenticator import read_signing_secret, read_token_rules
from steelyard.access.page_sessions import PageCodes, PageSessions
from steelyard.access.tenants import create_tenant
from steelyard.balances.store import open_book
from steelyard.cli.demo import is_demo_due, load_demo, wait_a_while
from steelyard.cli.import_ports import open_import_ports
from steelyard.cli.listen import DEFAULT_PORT, listen_on, port_of, take_port
from steelyard.cli.outcome import print_json, say
from steelyard.cli.page import make_page_address, noted_address
from steelyard.cli.program import Program
from steelyard.cli.progress import Steps
from steelyard.cli.reach import check_schema, explained_as
from steelyard.cli.replay_month import IDLE_S, Replay, ReplayPorts
from steelyard.cli.serving import Ending, Server, server_for
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.ledger.import_purchases import ImportOutcome
from steelyard.ledger.purchases import CURRENCY_CODE
from steelyard.runtime.clock import SystemClock
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.database import Database
from steelyard.runtime.datafolder import (
    DemoState,
    ProductFolder,
    Secret,
    make_secret,
    open_folder,
    read_demo_state,
)
from steelyard.runtime.instance import start_instance
from steelyard.runtime.logs import configure_logs
from steelyard.runtime.provision import is_administrator, prepare_database
from steelyard.runtime.repeat import repeat
from steelyard.runtime.settings import Settings
from steelyard.runtime.valkey import embedded_valkey

if TYPE_CHECKING:
    from steelyard.cli.demo_bank import DemoBank

# An address that stands for all of this machine's, and one of them.
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What was asked for."""

    settings: Settings
    wants_demo: bool | None
    wants_replay: bool
    wants_json: bool
    wants_json_logs: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database that is ready, and the folder that holds the secrets."""

    url: str
    folder: ProductFolder
    is_embedded: bool


@dataclass(frozen=True, slots=True)
class Started:
    """What runs, and with which settings."""

    options: UpOptions
    ready: Prepared
    bank: "DemoBank | None"
    settings: Settings


async def run_up(load: Callable[[], Program], options: UpOptions) -> None:
    """Start everything, serve until asked to end, and stop everything.

    Raises:
        SteelyardError: Something cannot be started; what was started before is stopped again.
    """
    settings, steps = options.settings, Steps(options.wants_json_logs)
    configure_logs(form=settings.log_format, level=settings.log_level)
    task = asyncio.current_task()
    assert task is not None
    ending = Ending(task)
    with ending.listening(), take_port(settings.host, settings.port) as bound:
        if settings.port is None and port_of(bound) != DEFAULT_PORT:
            steps.tell(f"port {DEFAULT_PORT} is taken; using {port_of(bound)}")
        try:
            async with AsyncExitStack() as closing:
                await _run(load, options, steps, ending=ending, bound=bound, closing=closing)
        except asyncio.CancelledError:
            if not ending.asked:
                raise
        if ending.asked:
            steps.tell("stopped; the data stays")


async def _run(
    load: Callable[[], Program],
    options: UpOptions,
    steps: Steps,
    *,
    ending: Ending,
    bound: socket.socket,
    closing: AsyncExitStack,
) -> None:
    settings = options.settings
    # Imports take about as long as PostgreSQL's start: both at once.
    importing = asyncio.create_task(asyncio.to_thread(load))
    find_redis = await closing.enter_async_context(_redis_beside(settings, steps))
    ready = await closing.enter_async_context(_prepared(settings, steps))
    is_demo_wanted = options.wants_demo if ready.is_embedded else options.wants_demo is True
    is_month_due = is_demo_due(ready.folder, is_demo_wanted)
    bank = await _have_default_tenant(ready, options, steps, closing=closing)
    if is_month_due:
        await _load_demo(ready, steps, closing=closing)
    with steps.step("server"):
        program = await importing
        settings = await find_redis()
        if bank is not None:
            settings = bank.settings(settings)
        secret = make_secret(ready.folder, Secret.JWT)
        application = program.create_app(
            settings,
            database_url=ready.url,
            made_secret=secret,
            page_sessions=_page_sessions(settings, ready.folder, secret),
        )
        await closing.enter_async_context(application.router.lifespan_context(application))
        _start_replay(application.state.steelyard, ready, options, closing=closing)
        server = server_for(application, program.server_options(settings))
        listen_on(bound)
    ending.server = server
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    telling = asyncio.create_task(
        _tell_when_up(server, Started(options, ready, bank, settings), port_of(bound), steps=steps)
    )
    try:
        await serving
    finally:
        telling.cancel()
        server.should_exit = True
        await asyncio.wait({serving, telling})


async def _tell_when_up(server: Server, started: Started, port: int, *, steps: Steps) -> None:
    await server.is_up.wait()
    url = _url_of(started.settings, port)
    with noted_address(started.ready.folder, url):
        _tell_ready(started, url, steps)
        await asyncio.Event().wait()  # until cancelled: the note is true while the server runs


def _page_sessions(settings: Settings, folder: ProductFolder, secret: str) -> PageSessions | None:
    """Return what opens the live page; None where tokens are signed by somebody else's key."""
    if settings.jwt_algorithm != "HS256":
        return None
    key = read_signing_secret(settings, secret)
    return PageSessions(PageCodes(folder), read_token_rules(settings), key, SystemClock())


@asynccontextmanager
async def _redis_beside(
    settings: Settings, steps: Steps
) -> AsyncIterator[Callable[[], Awaitable[Settings]]]:
    """Start the embedded Valkey beside the database, unless a Redis is named; yield what tells the settings with it."""

    async def as_named() -> Settings:
        return settings

    if settings.redis_address is not None:
        yield as_named
        return
    folder = open_folder(settings.data_dir).path
    async with embedded_valkey(folder, report=steps.tell) as find_address:

        async def with_address() -> Settings:
            url = await find_address()
            return settings.model_copy(update={"redis_url": SecretStr(url) if url else None})

        yield with_address


@asynccontextmanager
async def _prepared(settings: Settings, steps: Steps) -> AsyncIterator[Prepared]:
    """Have a migrated database: the embedded one, watched, or the server named in the settings."""
    if settings.database_url is not None:
        with steps.step("database (STEELYARD_DATABASE_URL)"):
            ready = await _prepare_server(settings, steps)
        yield ready
        return
    with steps.step("PostgreSQL"):
        instance = await start_instance(settings.data_dir, report=steps.tell)
    try:
        with steps.step("roles and schema"):
            await instance.prepare()
        async with instance.watched():
            yield Prepared(instance.app_url, instance.folder, is_embedded=True)
    finally:
        await instance.stop()


async def _prepare_server(settings: Settings, steps: Steps) -> Prepared:
    """Use a named server: as an administrator make what is missing, else only check it."""
    assert settings.database_url is not None, "asked for by the caller"
    url, folder = settings.database_url.get_secret_value(), open_folder(settings.data_dir)
    with explained_as("the database in STEELYARD_DATABASE_URL"):
        if await is_administrator(url):
            password = make_secret(folder, Secret.DATABASE_LOGIN)
            made = await prepare_database(
                url, login=_login_for(folder), password=password, report=steps.tell
            )
            return Prepared(made.app_url, folder, is_embedded=False)
    await check_schema(url)
    return Prepared(url, folder, is_embedded=False)


def _login_for(folder: ProductFolder) -> str:
    """Name the login of this data folder, so that two folders on one server do not change each other's password."""
    return f"steelyard_up_{hashlib.sha256(os.fsencode(folder.path)).hexdigest()[:8]}"


async def _have_default_tenant(
    ready: Prepared, options: UpOptions, steps: Steps, *, closing: AsyncExitStack
) -> "DemoBank | None":
    """Make the default tenant, and with the demo the users of its core bank, before any other account."""
    from steelyard.cli.demo_people import enrol_people, rest_people

    settings = options.settings
    database, now = await Database.open(ready.url, pool_size=2), SystemClock().now()
    try:
        await create_tenant(database, DEFAULT_TENANT, name="Default", now=now)
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await open_book(uow, find_currency(CURRENCY_CODE), now=now)
        if read_demo_state(ready.folder) not in (DemoState.LOADING, DemoState.LOADED):
            return None
        is_declined = options.wants_demo is False or not _has_demo(ready, options)
        if settings.t24_api_url is not None or is_declined:
            await rest_people(database, now=now)
            return None
        mirrored = await enrol_people(database, settings, now=now)
    finally:
        await database.close()
    return await _start_bank(ready.folder, mirrored, steps, closing=closing)


async def _start_bank(
    folder: ProductFolder, mirrored: Mapping[str, int], steps: Steps, *, closing: AsyncExitStack
) -> "DemoBank | None":
    """Serve the demo's core bank; a start does not fail for it."""
    from steelyard.cli.demo_bank import open_demo_bank

    try:
        return await closing.enter_async_context(open_demo_bank(folder, mirrored))
    except OSError as error:
        steps.tell(f"the demo goes on without its core bank ({error.strerror or error})")
        return None


def _has_demo(ready: Prepared, options: UpOptions) -> bool:
    """Whether this database has the demo, or is about to get it."""
    is_demo = ready.is_embedded or options.wants_demo is True
    return is_demo and read_demo_state(ready.folder) in (DemoState.LOADING, DemoState.LOADED)


async def _load_demo(ready: Prepared, steps: Steps, *, closing: AsyncExitStack) -> None:
    """Load the month of purchases; what takes longer than a start may goes on beside the server."""

    async def load() -> ImportOutcome:
        async with open_import_ports(ready.url) as ports:
            return await load_demo(ports, ready.folder)

    loading = asyncio.create_task(load(), name="demo data")
    closing.push_async_callback(_end, loading)
    began_s = asyncio.get_running_loop().time()
    outcome = await wait_a_while(loading)
    if outcome is None:
        steps.tell("demo data goes on loading beside the server")
    else:
        steps.tell(
            f"demo data: {outcome.lines:,} card purchases of {outcome.cards:,} cards",
            took_s=asyncio.get_running_loop().time() - began_s,
        )


def _start_replay(
    services: Any, ready: Prepared, options: UpOptions, *, closing: AsyncExitStack
) -> None:
    """Replay the month for whoever watches, until the server ends; only in a database that has the demo's month."""
    if not (options.wants_replay and _has_demo(ready, options)):
        return
    ports = ReplayPorts(
        services.database, services.commit, services.reader, services.live.gateway.watches.keys
    )
    replay = Replay(ports, ready.folder)
    playing = asyncio.create_task(repeat("replay of the month", replay.turn, every_s=IDLE_S))
    closing.push_async_callback(_end, playing)


async def _end(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})


def _url_of(settings: Settings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{_ANY_ADDRESS.get(settings.host, host)}:{port}"


def _tell_ready(started: Started, url: str, steps: Steps) -> None:
    """Say where it listens, how to look at it and call it, and where the data lies."""
    options, ready = started.options, started.ready
    folder, signs = ready.folder.path, started.settings.jwt_algorithm == "HS256"
    if options.wants_json:
        page = make_page_address(ready.folder, url) if signs else url
        taken_s = round(steps.elapsed_s, 2)
        bank = started.bank.url if started.bank else None
        told = {"url": url, "page": page, "data_dir": str(folder), "core_bank": bank}
        print_json({**told, "ready_s": taken_s})
        return
    if options.wants_json_logs:
        steps.tell(f"ready at {url}", took_s=steps.elapsed_s)
        return
    say(f"\nSteelyard is ready after {steps.elapsed_s:.1f} s:  {url}\n")
    at = f"--data-dir {_quoted(folder)}"
    if signs:
        say("  Watch it live; this address opens once, within ten minutes:\n")
        say(f"    {make_page_address(ready.folder, url)}\n")
        say("  An admin's token for this shell, and a first call with it:\n")
        say(f"    TOKEN=$({_command()} token --user admin --role admin {at})")
        has_cards = read_demo_state(ready.folder) in (DemoState.LOADING, DemoState.LOADED)
        some = "user=card-1" if has_cards else "limit=3"
        say(f"    curl -H \"Authorization: Bearer $TOKEN\" '{url}/api/accounts?{some}'\n")
    else:
        say(f"  Watch it live: open {url} and paste a token of your issuer\n")
    if started.bank is not None:
        every_s = started.settings.balance_sync_interval / 1000
        say(
            f"  Core bank           simulated, read every {every_s:g} s; {_command()} sync status {at}"
        )
    say(f"  API documentation   {url}/docs")
    say(f"  Data folder         {folder}")
    if signs:
        say(f"  Another address     {_command()} page {at}")
    say("  Ctrl-C stops; the data stays.\n")


def _command() -> str:
    """Return how a person here calls this program."""
    if shutil.which("steelyard"):
        return "steelyard"
    dev = Path(__file__).parents[3] / "dev"
    if os.access(dev, os.X_OK):
        return _quoted(dev)
    return f"{_quoted(Path(sys.executable))} -m steelyard"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
