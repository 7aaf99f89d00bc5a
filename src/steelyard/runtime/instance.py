"""An embedded instance: the data folder, its PostgreSQL, a migrated schema and the product's login.

Whoever starts one owns the data folder until it stops it. Commands that work beside a running
instance find it and own nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.datafolder import (
    ProductFolder,
    Secret,
    find_folder,
    make_secret,
    open_folder,
    read_secret,
)
from steelyard.runtime.embedded import (
    EmbeddedPostgresError,
    EmbeddedServer,
    find_running_postgres,
    is_server_running,
    restart_embedded_postgres,
    start_embedded_postgres,
    stop_embedded_postgres,
    trim_log,
)
from steelyard.runtime.provision import Provisioned, prepare_database, url_for_login

APP_LOGIN = "steelyard_server"
"""The login role of the running product in an embedded database."""

LOOK_EVERY_S = 0.25
RESTART_PAUSE_MAX_S = 5.0
TRIM_EVERY_S = 60.0

Report = Callable[[str], None]


@dataclass(slots=True)
class Instance:
    """A running embedded database that this process owns."""

    folder: ProductFolder
    server: EmbeddedServer
    report: Report
    restarts: int = 0

    @property
    def admin_url(self) -> str:
        """Address for the superuser: roles and migrations only."""
        return self.server.address.url()

    @property
    def app_url(self) -> str:
        """Address for the running product; it stays the same when the server is started again."""
        return url_for_login(
            self.admin_url, APP_LOGIN, read_secret(self.folder, Secret.DATABASE_LOGIN)
        )

    async def prepare(self) -> Provisioned:
        """Create what is missing in the database and migrate it; quick where nothing is missing."""
        password = make_secret(self.folder, Secret.DATABASE_LOGIN)
        return await prepare_database(
            self.admin_url, login=APP_LOGIN, password=password, report=self.report
        )

    async def watch(self) -> None:
        """Start the server again whenever it ends; runs until it is cancelled.

        Meanwhile whoever asks the database gets `DatabaseUnavailable`, and recovers by itself.
        """
        pause_s, since_trim_s = LOOK_EVERY_S, 0.0
        while True:
            await asyncio.sleep(pause_s)
            since_trim_s += pause_s
            if is_server_running(self.server):
                pause_s = LOOK_EVERY_S
                if since_trim_s > TRIM_EVERY_S:
                    since_trim_s = 0.0
                    await asyncio.to_thread(trim_log, self.folder.path)
                continue
            self.report("PostgreSQL has ended; starting it again")
            try:
                self.server = await asyncio.to_thread(
                    restart_embedded_postgres, self.server, report=self.report
                )
            except EmbeddedPostgresError as error:
                pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)
                self.report(f"{error}; trying again in {pause_s:.1f} s")
            else:
                self.restarts += 1
                self.report(f"PostgreSQL {self.server.version} is back (process {self.server.pid})")

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the server while inside; see `watch`."""
        watching = asyncio.create_task(self.watch(), name="watch PostgreSQL")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def stop(self) -> None:
        """Stop the server and give the data folder free."""
        await asyncio.to_thread(stop_embedded_postgres, self.server)


async def start_instance(data_dir: Path, *, report: Report, port: int | None = None) -> Instance:
    """Own the data folder, start its PostgreSQL or adopt the one that runs, and make the secrets.

    Call `prepare` before using `app_url`.

    Raises:
        EmbeddedPostgresError: The folder is in use, or PostgreSQL cannot be started; it says what to do.
        SecretUnusable: A secret is damaged or readable by others.
    """
    folder = open_folder(data_dir)
    starting = asyncio.ensure_future(
        asyncio.to_thread(start_embedded_postgres, folder.path, report=report, port=port)
    )
    try:
        server = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread goes on: wait for it, so that nothing is left running behind our back.
        await asyncio.to_thread(stop_embedded_postgres, await starting)
        raise
    try:
        make_secret(folder, Secret.JWT)
        make_secret(folder, Secret.DATABASE_LOGIN)
    except BaseException:
        await asyncio.to_thread(stop_embedded_postgres, server)
        raise
    return Instance(folder, server, report)


@asynccontextmanager
async def reach_embedded(data_dir: Path, *, report: Report) -> AsyncIterator[str]:
    """Give the product's address of a data folder's database for the time of one command.

    Beside a running instance that one's database is used. Otherwise PostgreSQL is started for this
    command and stopped after it.

    Raises:
        DataFolderMissing: There is no data folder.
        EmbeddedPostgresError: It cannot be started.
    """
    folder = find_folder(data_dir)
    running = await asyncio.to_thread(find_running_postgres, folder.path)
    if running is not None:
        yield url_for_login(running.url(), APP_LOGIN, read_secret(folder, Secret.DATABASE_LOGIN))
        return
    instance = await start_instance(folder.path, report=report)
    try:
        await instance.prepare()
        async with instance.watched():
            yield instance.app_url
    finally:
        await instance.stop()
