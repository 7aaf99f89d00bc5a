"""Where a benchmark runs: databases of its own, gone when it ends.

Without an address it starts an embedded PostgreSQL, with the settings the product ships, in a temporary
folder; with one it makes databases of its own on that server.
"""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from steelyard.cli.outcome import CommandFailed
from steelyard.runtime.database import CONNECTION_LOST, connect
from steelyard.runtime.embedded.server import stop_embedded_postgres
from steelyard.runtime.embedded.start import start_embedded_postgres
from steelyard.runtime.provision import prepare_database

Report = Callable[[str], None]
SYNC_WRITES = 50
_UNUSABLE: tuple[type[Exception], ...] = (*CONNECTION_LOST, asyncpg.PostgresError, ValueError)


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """One migrated database: as superuser, and as the product logs in."""

    name: str
    admin_url: str
    app_url: str


@dataclass(slots=True)
class Place:
    """A server to measure on. `admin_url` is a superuser's."""

    admin_url: str
    folder: Path
    """A temporary folder of this run."""
    is_embedded: bool
    report: Report
    login: str = field(default_factory=lambda: f"steelyard_bench_{secrets.token_hex(4)}")
    _password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """Of the login: one for all databases, so that making one locks nobody out of another."""
    _made: list[str] = field(default_factory=list)

    async def make_database(self) -> BenchDatabase:
        """Make a database and migrate it to this release's schema."""
        name = f"steelyard_bench_{secrets.token_hex(4)}"
        connection = await connect(self.admin_url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close(timeout=5)
        self._made.append(name)
        url = urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}"))
        prepared = await prepare_database(url, login=self.login, password=self._password)
        return BenchDatabase(name, url, prepared.app_url)

    async def clean(self) -> None:
        """Drop what was made here."""
        connection = await connect(self.admin_url)
        try:
            for name in self._made:
                await connection.execute(
                    f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', timeout=60
                )
            await connection.execute(f'DROP ROLE IF EXISTS "{self.login}"')
        finally:
            await connection.close(timeout=5)


@asynccontextmanager
async def open_place(database_url: str | None, *, report: Report) -> AsyncIterator[Place]:
    """Give a server to measure on, and leave nothing of the run behind.

    Args:
        database_url: A superuser's address; None starts an embedded server.
        report: Told each step that takes time.
    Raises:
        EmbeddedPostgresError: No server can be started.
        CommandFailed: The server that was named does not answer, or not to a superuser.
    """
    folder = Path(tempfile.mkdtemp(prefix="steelyard-bench-", dir=_parent_folder()))
    try:
        if database_url is not None:
            await _check_superuser(database_url)
            place = Place(database_url, folder, False, report)
            try:
                yield place
            finally:
                await place.clean()
            return
        report("starting an embedded PostgreSQL")
        starting = asyncio.ensure_future(
            asyncio.to_thread(start_embedded_postgres, folder / "data", report=report)
        )
        try:
            server = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.to_thread(stop_embedded_postgres, await starting)
            raise
        try:
            yield Place(server.address.url(), folder, True, report)
        finally:
            await asyncio.to_thread(stop_embedded_postgres, server)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _check_superuser(database_url: str) -> None:
    """Ask once whether the server can be used, before anything is made."""
    try:
        connection = await connect(database_url)
    except _UNUSABLE as error:
        raise CommandFailed(
            f"the server in --database-url cannot be used: {str(error) or type(error).__name__}; nothing was measured"
        ) from error
    try:
        is_superuser = await connection.fetchval("SHOW is_superuser")
    finally:
        await connection.close(timeout=5)
    if is_superuser != "on":
        raise CommandFailed(
            "--database-url must name a superuser, since a benchmark fills tables directly; nothing was measured"
        )


def _parent_folder() -> str:
    """Return a folder for temporary files that is on a disk, if there is one: memory makes fsync free."""
    usual = tempfile.gettempdir()
    for folder in (usual, "/var/tmp"):  # noqa: S108  (only a parent; the folder itself is made by mkdtemp)
        if os.access(folder, os.W_OK) and file_system_of(Path(folder)) not in ("tmpfs", "ramfs"):
            return folder
    return usual


def file_system_of(path: Path) -> str | None:
    """Return the kind of file system a path is on, or None where that cannot be told."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    wanted = str(path.resolve())
    best: tuple[str, str | None] = ("", None)
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        within = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if within and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


async def describe_machine(place: Place) -> dict[str, object]:
    """Return what the figures depend on: cores, versions, how durable a commit is here."""
    connection = await connect(place.admin_url)
    try:
        shown = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in ("server_version", "fsync", "synchronous_commit", "full_page_writes")
        }
    finally:
        await connection.close(timeout=5)
    return {
        "cores": usable_cores(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "postgresql": shown.pop("server_version"),
        "server": "embedded" if place.is_embedded else "external",
        **shown,
        "asyncpg": asyncpg.__version__,
        "file_system": file_system_of(place.folder) if place.is_embedded else None,
        "fdatasync_us": await asyncio.to_thread(_time_sync, place.folder)
        if place.is_embedded
        else None,
    }


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _time_sync(folder: Path) -> int:
    """Return the median time in microseconds to get 8 kB onto the disk."""
    sync = getattr(os, "fdatasync", os.fsync)
    times_s = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNC_WRITES):
            began_s = time.perf_counter()
            os.pwrite(file.fileno(), bytes(8192), 0)
            sync(file.fileno())
            times_s.append(time.perf_counter() - began_s)
    return round(sorted(times_s)[len(times_s) // 2] * 1e6)
