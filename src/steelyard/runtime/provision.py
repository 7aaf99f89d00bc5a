"""Makes a database ready: roles, schema, a login for the product, migrations.

Runs as an administrator (the embedded server's own superuser, or the owner given to
`steelyard migrate`). The running product never logs in as that role.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from steelyard.core.errors import SteelyardError
from steelyard.runtime.database import Connection, connect
from steelyard.runtime.migrate import migrate

GROUPS = ("steelyard_owner", "steelyard_ledger", "steelyard_app")
_LOCK = 0x5EE1_7A4D


class ProvisionRefused(SteelyardError):
    """The administrator's role may not do what is needed."""

    code = "provision_refused"

    def __init__(self, *, needed: str) -> None:
        self.needed = needed
        super().__init__(
            f"the administrator's database role may not {needed}; nothing was changed. "
            "Ask for a role with CREATEROLE that owns the database, or run `steelyard migrate` as one"
        )


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What there is now."""

    app_url: str
    revision: str


async def is_administrator(url: str) -> bool:
    """Whether this address logs in as a role that may create roles, which the running product never does."""
    connection = await connect(url)
    try:
        may: bool = await connection.fetchval(
            "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        )
    finally:
        await connection.close(timeout=5)
    return may


async def prepare_database(
    admin_url: str, *, login: str, password: str, report: Callable[[str], None] = lambda _: None
) -> Provisioned:
    """Create what is missing and migrate to the newest schema; safe to repeat and to run twice at once.

    Args:
        admin_url: Connects as a superuser, or as the database's owner with CREATEROLE.
        login: Role the product logs in as; created, or given this password.
        password: Its password.
        report: Told each step.
    Raises:
        ProvisionRefused: The role may not create roles or schemas.
    """
    await make_roles(admin_url, login=login, password=password)
    revision = await migrate(admin_url, report=report)
    return Provisioned(url_for_login(admin_url, login, password), revision)


async def make_roles(admin_url: str, *, login: str, password: str) -> None:
    """Create the roles, the product's login and the empty schema where they are missing.

    Raises:
        ProvisionRefused: The role may not create roles or schemas.
    """
    connection = await connect(admin_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await _create_roles(connection, login, password)
            await connection.execute(
                "CREATE SCHEMA IF NOT EXISTS steelyard AUTHORIZATION steelyard_owner"
            )
            await connection.execute(
                "CREATE SCHEMA IF NOT EXISTS steelyard_jobs AUTHORIZATION steelyard_owner"
            )
            await connection.execute("GRANT USAGE, CREATE ON SCHEMA steelyard TO steelyard_ledger")
            await connection.execute("GRANT USAGE ON SCHEMA steelyard TO steelyard_app")
    except asyncpg.InsufficientPrivilegeError as error:
        raise ProvisionRefused(needed=str(error)) from error
    finally:
        await connection.close(timeout=5)


def url_for_login(admin_url: str, login: str, password: str) -> str:
    """Return `admin_url` with another user and password."""
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(netloc=f"{quote(login, safe='')}:{quote(password, safe='')}@{host}")
    )


async def _create_roles(connection: Connection, login: str, password: str) -> None:
    existing = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    for role in GROUPS:
        if role not in existing:
            await connection.execute(f"CREATE ROLE {role} NOLOGIN NOSUPERUSER")
    admin = await connection.fetchval("SELECT current_user")
    is_superuser = await connection.fetchval(
        "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    )
    await _make_owner_a_member(connection)
    if not is_superuser:
        await connection.execute(f'GRANT steelyard_owner TO "{admin}"')
    name = '"' + login.replace('"', '""') + '"'
    secret = "'" + password.replace("'", "''") + "'"
    # A new role has no other attribute; to name NOCREATEDB again takes CREATEDB since PostgreSQL 16.
    verb = "ALTER" if login in existing else "CREATE"
    await connection.execute(f"{verb} ROLE {name} LOGIN INHERIT PASSWORD {secret}")
    await connection.execute(f"GRANT steelyard_app TO {name}")


async def _make_owner_a_member(connection: Connection) -> None:
    """Let steelyard_owner hand its functions to steelyard_ledger without having that role's rights.

    What it inherited, the policies of steelyard_ledger would show it: every tenant's rows.
    """
    if await connection.fetchval(
        "SELECT rolinherit FROM pg_roles WHERE rolname = 'steelyard_owner'"
    ):
        await connection.execute("ALTER ROLE steelyard_owner NOINHERIT")
    # Since PostgreSQL 16 it is the membership that says what is inherited.
    is_said_here = connection.get_server_version().major >= 16
    await connection.execute(
        "GRANT steelyard_ledger TO steelyard_owner"
        + (" WITH INHERIT FALSE" if is_said_here else "")
    )
