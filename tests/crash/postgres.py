"""The PostgreSQL of a crash run: one of its own that may be killed, or a given server that may not."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from steelyard.runtime.database import CONNECTION_LOST, Connection, connect
from steelyard.runtime.embedded import (
    EmbeddedServer,
    restart_embedded_postgres,
    start_embedded_postgres,
    stop_embedded_postgres,
)
from steelyard.runtime.embedded.folder import DataFolder
from steelyard.runtime.embedded.processes import find_server_processes
from tests.world import FreshDatabase, drop_database, make_fresh, make_template

TEMPLATE = "sy_crash_template"
# How the product's connections are told from others in pg_stat_activity.
ORPHANS_DEADLINE_S = 30.0
LOOKS = 300
"""How often the server is asked for a connection at work before a blow is given up."""
OURS = "application_name = 'steelyard' AND pid <> pg_backend_pid()"


@dataclass(slots=True)
class PostgresUnderFire:
    """A server to make databases on and to kill; without `server` it is someone else's and only loses connections."""

    admin_url: str
    server: EmbeddedServer | None = None
    template: str = TEMPLATE
    _again: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def start(cls, folder: Path, *, given: str | None = None) -> "PostgresUnderFire":
        """Start a server on a folder of its own, or take the given one; migrate a database to copy from."""
        if given:
            made = cls(given, template=f"{TEMPLATE}_{os.getpid()}")
        else:
            server = await asyncio.to_thread(start_embedded_postgres, folder, report=lambda _: None)
            made = cls(server.address.url(), server)
        await make_template(made.admin_url, made.template)
        return made

    @property
    def can_be_killed(self) -> bool:
        """Whether the server is ours to kill."""
        return self.server is not None

    async def fresh(self) -> FreshDatabase:
        """Make a migrated database."""
        return await make_fresh(self.admin_url, self.template)

    async def drop(self, fresh: FreshDatabase) -> None:
        """Drop a database."""
        await drop_database(self.admin_url, fresh.name)

    async def stop(self) -> None:
        """Stop the server, or leave a given one as it was."""
        if self.server is not None:
            await asyncio.to_thread(stop_embedded_postgres, self.server)
        else:
            await drop_database(self.admin_url, self.template)

    async def kill_postmaster(self) -> None:
        """Kill the postmaster with SIGKILL and start the server again at once."""
        await self._fell(signal.SIGKILL)

    async def stop_immediately(self) -> None:
        """Do what `pg_ctl stop -m immediate` does, and start the server again at once."""
        await self._fell(signal.SIGQUIT)

    async def kill_backend(self) -> bool:
        """Kill one backend of the product with SIGKILL; PostgreSQL then resets itself. Returns whether there was one."""
        pid = await self._find_backend()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        await self.wait_ready()
        return True

    async def terminate_backends(self, database: str) -> bool:
        """End the connections on which the product works at one moment. Returns whether there was one."""
        connection = await self._look()
        try:
            for _ in range(LOOKS):
                ended = await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    f"WHERE datname = $1 AND state = 'active' AND {OURS}",
                    database,
                )
                if ended:
                    return True
        finally:
            connection.terminate()
        return False

    async def wait_ready(self) -> None:
        """Wait until the server answers."""
        async with asyncio.timeout(60):
            while True:
                try:
                    connection = await self._look()
                    await connection.fetchval("SELECT 1")
                except CONNECTION_LOST:
                    await asyncio.sleep(0.02)
                else:
                    connection.terminate()
                    return

    async def stop_now(self) -> None:
        """Kill the server and leave it down; its orphans end at their next wait."""
        assert self.server is not None
        os.kill(self.server.pid, signal.SIGKILL)
        folder = DataFolder(self.server.data_dir)
        until = time.monotonic() + ORPHANS_DEADLINE_S
        # Another program's processes tell nobody when they end.
        while find_server_processes(folder) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def start_again(self) -> None:
        """Start the server where it was."""
        assert self.server is not None
        self.server = await asyncio.to_thread(
            restart_embedded_postgres, self.server, report=lambda _: None
        )

    async def _fell(self, number: int) -> None:
        assert self.server is not None
        async with self._again:
            os.kill(self.server.pid, number)
            await self.start_again()

    async def _find_backend(self) -> int | None:
        connection = await self._look()
        try:
            for _ in range(LOOKS):
                found: int | None = await connection.fetchval(
                    f"SELECT pid FROM pg_stat_activity WHERE {OURS} AND state = 'active' LIMIT 1"
                )
                if found is not None:
                    return found
        finally:
            connection.terminate()
        return None

    async def _look(self) -> Connection:
        return await connect(self.admin_url, options=(("application_name", "crash proof"),))
