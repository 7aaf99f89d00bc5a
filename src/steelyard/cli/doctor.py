"""`steelyard doctor`: looks at everything a start needs, and says what is wrong and what to do."""

import asyncio
import platform
import sys
from typing import TYPE_CHECKING

import typer

from steelyard.cli.options import DataDir, Json, settings_with
from steelyard.cli.outcome import CommandFailed, ExitCode, leave, print_table, say, show

if TYPE_CHECKING:
    from steelyard.runtime.embedded.diagnose import Finding
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False)

OLDEST_PYTHON = (3, 11)


@app.command(help="Look at everything a start needs; says what is wrong and what to do.")
def doctor(data_dir: DataDir = None, wants_json: Json = False) -> None:
    """Diagnose this installation; starts and changes nothing."""
    settings = settings_with(data_dir)
    findings = asyncio.run(diagnose(settings))
    rows = [
        {"name": one.name, "ok": one.ok, "what": one.what, "remedy": one.remedy} for one in findings
    ]
    wrong = sum(not one.ok for one in findings)
    show(
        {"ok": not wrong, "findings": rows}, wants_json=wants_json, as_text=lambda: _print(findings)
    )
    if wrong:
        if not wants_json:
            say(f"steelyard: {wrong} of {len(findings)} findings need something done")
        leave(ExitCode.ERROR)


def _print(findings: "list[Finding]") -> None:
    rows = []
    for one in findings:
        rows.append(("ok" if one.ok else "WRONG", one.name, one.what))
        if one.remedy:
            rows.append(("", "", f"→ {one.remedy}"))
    print_table(("", "what was looked at", "what was seen"), rows)


async def diagnose(settings: "Settings") -> "list[Finding]":
    """Return what was looked at: Python, settings, port, disk, Redis, database, schema, role guard."""
    from steelyard.runtime.embedded.diagnose import diagnose_embedded_postgres

    findings = [_look_at_python(), _look_at_port(settings)]
    if settings.database_url is None:
        findings += await asyncio.to_thread(diagnose_embedded_postgres, settings.data_dir)
    findings.append(await _look_at_redis(settings))
    findings.append(_look_at_token_secret(settings))
    return findings + await _look_at_database(settings)


def _look_at_python() -> "Finding":
    from steelyard.runtime.embedded.diagnose import Finding

    name, what = "Python", f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding(name, ok=False, what=what, remedy="Use Python 3.11 or newer")
    return Finding(name, ok=True, what=what)


def _look_at_port(settings: "Settings") -> "Finding":
    from steelyard.cli.listen import port_of, take_port
    from steelyard.runtime.embedded.diagnose import Finding

    name = f"port on {settings.host}"
    try:
        with take_port(settings.host, settings.port) as bound:
            return Finding(name, ok=True, what=f"{port_of(bound)} is free")
    except CommandFailed as error:
        remedy = "Stop the program that has it (perhaps a running steelyard), or set STEELYARD_PORT"
        return Finding(name, ok=False, what=str(error), remedy=remedy)


async def _look_at_redis(settings: "Settings") -> "Finding":
    from steelyard.runtime.valkey.diagnose import diagnose_embedded_valkey, diagnose_redis

    address = settings.redis_address
    if address is not None:
        return await diagnose_redis(address.get_secret_value())
    return await asyncio.to_thread(diagnose_embedded_valkey, settings.data_dir)


def _look_at_token_secret(settings: "Settings") -> "Finding":
    from steelyard.access.errors import UnsafeSettings
    from steelyard.access.open_authenticator import read_signing_secret
    from steelyard.runtime.datafolder import (
        DataFolderMissing,
        Secret,
        SecretUnusable,
        find_folder,
        read_secret,
    )
    from steelyard.runtime.embedded.diagnose import Finding

    name = "token secret"
    if settings.jwt_algorithm != "HS256":
        return Finding(name, ok=True, what=f"none is needed: tokens are {settings.jwt_algorithm}")
    try:
        if settings.jwt_secret_file is not None:
            read_signing_secret(settings, None)
            return Finding(name, ok=True, what=f"read from {settings.jwt_secret_file}")
        folder = find_folder(settings.data_dir)
        read_secret(folder, Secret.JWT)
        return Finding(name, ok=True, what=f"{folder.secret_path(Secret.JWT)}, mode 0600")
    except DataFolderMissing:
        return Finding(name, ok=True, what="not there yet; the first `steelyard up` makes it")
    except SecretUnusable as error:
        return Finding(name, ok=False, what=error.problem, remedy=error.remedy)
    except UnsafeSettings as error:
        return Finding(name, ok=False, what=str(error), remedy=f"Mend {error.setting}")


async def _look_at_database(settings: "Settings") -> "list[Finding]":
    """Ask the database itself, where one runs: does it answer, is its schema ours, does the wall hold."""
    from steelyard.core.errors import SteelyardError
    from steelyard.runtime.embedded.diagnose import Finding

    try:
        url = await _find_url(settings)
    except SteelyardError as error:
        return [Finding("database", ok=False, what=str(error), remedy="See the findings above")]
    if url is None:
        return [Finding("database", ok=True, what="not running; `steelyard up` starts it")]
    findings: list[Finding] = []
    for name, look, remedy in (
        ("database", _look_at_answer, "Start the server, or correct STEELYARD_DATABASE_URL"),
        ("schema", _look_at_schema, "Run `steelyard migrate`, or `steelyard up` for a data folder"),
        (
            "wall between tenants",
            _look_at_wall,
            "Run `steelyard migrate` and use the login it makes",
        ),
    ):
        try:
            findings.append(Finding(name, ok=True, what=await look(url)))
        except SteelyardError as error:
            findings.append(Finding(name, ok=False, what=str(error), remedy=remedy))
            break
    return findings


async def _find_url(settings: "Settings") -> str | None:
    """Return the product's address of the database that runs; None where none does."""
    from steelyard.runtime.datafolder import DataFolderMissing, Secret, find_folder, read_secret
    from steelyard.runtime.embedded import find_running_postgres
    from steelyard.runtime.instance import APP_LOGIN
    from steelyard.runtime.provision import url_for_login

    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    try:
        folder = find_folder(settings.data_dir)
    except DataFolderMissing:
        return None
    running = await asyncio.to_thread(find_running_postgres, folder.path)
    if running is None:
        return None
    return url_for_login(running.url(), APP_LOGIN, read_secret(folder, Secret.DATABASE_LOGIN))


async def _look_at_answer(url: str) -> str:
    from steelyard.runtime.database import Database

    database = await Database.open(url, pool_size=2)
    try:
        version = await database.fetchval("SELECT current_setting('server_version')")
        role = await database.fetchval("SELECT current_user")
    finally:
        await database.close()
    return f"PostgreSQL {version} answers; logged in as {role}"


async def _look_at_schema(url: str) -> str:
    from steelyard.cli.reach import check_schema
    from steelyard.runtime.migrate import newest_revision

    await check_schema(url)
    return f"at revision {newest_revision()}"


async def _look_at_wall(url: str) -> str:
    from steelyard.access.guard import check_database
    from steelyard.runtime.database import Database

    database = await Database.open(url, pool_size=2)
    try:
        found = await check_database(database)
    finally:
        await database.close()
    return f"row-level security binds {found.role}"
