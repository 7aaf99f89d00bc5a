"""A real server process with the whole product in it, and a client that speaks to it over HTTP."""

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, issue_token
from steelyard.core.ids import DEFAULT_TENANT, TenantId, UserId

SECRET = "only for tests: 32 bytes and a few more"
START_DEADLINE_S = 20.0
_RUN = (
    "import uvicorn, sys; from steelyard.app import create_app_from_environment, server_options; "
    "from steelyard.cli.serving import LiveServer; from steelyard.runtime.settings import load_settings; "
    "options = server_options(load_settings()); "
    "LiveServer(uvicorn.Config(create_app_from_environment(), port=int(sys.argv[1]), **options)).run()"
)


def free_port() -> int:
    """Return a port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def token(
    user: str = "boss",
    role: Role = Role.ADMIN,
    *,
    tenant: str = DEFAULT_TENANT,
    lifetime: timedelta | None = None,
    now: datetime | None = None,
    secret: str = SECRET,
) -> str:
    """Return a signed token; an earlier `now` makes an expired one."""
    if lifetime is None:  # some are made long before their test runs, when tests are collected
        lifetime = timedelta(hours=6) if now is None else timedelta(minutes=10)
    order = TokenOrder(TenantId(tenant), UserId(user), role, lifetime)
    return issue_token(order, rules=TokenRules(), key=secret.encode(), now=now or datetime.now(UTC))


def bearer(
    user: str = "boss", role: Role = Role.ADMIN, *, tenant: str = DEFAULT_TENANT
) -> dict[str, str]:
    """Return the header of a caller."""
    return {"Authorization": f"Bearer {token(user, role, tenant=tenant)}"}


def key(text: str | None = None) -> dict[str, str]:
    """Return an Idempotency-Key header, a new one unless given."""
    return {"Idempotency-Key": text or secrets.token_hex(8)}


@dataclass
class Server:
    """A running server process."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx2.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=30)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> int:
        """End it as a supervisor does; return its exit code."""
        await self.client.aclose()
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, 20)

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx2.Response:
        """Send one request; without headers as an admin, a POST of money with a new key."""
        sent = {**bearer(), **key()} if headers is None else dict(headers)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
            return await self.client.request(method, path, content=content, headers=sent)
        return await self.client.request(method, path, json=json, headers=sent)

    def log_lines(self) -> list[str]:
        """What it has logged so far."""
        return self.log.read_text().splitlines()


async def start_server(
    database_url: str, folder: Path, *, settings: Mapping[str, str] | None = None
) -> Server:
    """Start a server on a free port and wait until it is ready."""
    secret_file = folder / "secret"
    if not secret_file.exists():
        secret_file.write_text(SECRET)
        secret_file.chmod(0o600)
    port, log = free_port(), folder / f"server-{secrets.token_hex(4)}.log"
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "STEELYARD_DATABASE_URL": database_url,
        "STEELYARD_JWT_SECRET_FILE": str(secret_file),
        "STEELYARD_POOL_SIZE": "4",
        **(settings or {}),
    }
    server = Server(port, _spawn(port, environment, log), log)
    await _wait_until_ready(server)
    return server


def _spawn(port: int, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _RUN, str(port)],
            env=dict(environment),
            stdout=output,
            stderr=output,
            cwd=log.parent,
        )


async def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended: {server.log.read_text()[-3000:]}")
        try:
            if (await server.client.get("/readyz")).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        await asyncio.sleep(0.05)
    server.process.kill()
    raise AssertionError(f"not ready in time: {server.log.read_text()[-3000:]}")
