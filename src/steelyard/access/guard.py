"""The guard at start: the process does not run where the wall between tenants would not hold.

Every table of the schema is either a tenant table or a named exception; one that is neither stops the
start, so that a new table cannot be forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg

from steelyard.access import store
from steelyard.access.errors import UnsafeDatabase
from steelyard.runtime.database import Database

TENANT_TABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tenant": "id",
        "app_user": "tenant_id",
        "api_key": "tenant_id",
        "audit": "tenant_id",
        "book": "tenant_id",
        "account": "tenant_id",
        "change": "tenant_id",
        "operation": "tenant_id",
        "hold": "tenant_id",
        "topup": "tenant_id",
        "contra_pending": "tenant_id",
        "checkpoint": "tenant_id",
        "mirrored_account": "tenant_id",
        "sync_target": "tenant_id",
        "run": "tenant_id",
        "provider_budget": "tenant_id",
        "job": "tenant_id",
        "schedule": "tenant_id",
        "schedule_tick": "tenant_id",
        "sync_removed": "tenant_id",
    }
)
"""Each table that holds tenants' rows, with the column that says whose."""

EXCEPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "relay_position": "how far the relay has read; one row for the whole installation",
        "alembic_version": "the schema's revision",
        "installation": "the key that signs hints between processes; one row for the whole installation",
        "job_worker": "signs of life of the processes that work on jobs of all tenants",
    }
)
"""Each table that holds no tenant's rows, and why."""

ALLOWED_WRITES: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("app_user", "INSERT"),
        ("app_user", "UPDATE"),
        ("api_key", "INSERT"),
        ("api_key", "UPDATE"),
        ("topup", "INSERT"),
        ("topup", "UPDATE"),
        ("audit", "INSERT"),
        ("relay_position", "INSERT"),
        ("relay_position", "UPDATE"),
        ("sync_target", "INSERT"),
        ("sync_target", "UPDATE"),
        ("sync_target", "DELETE"),
        ("run", "INSERT"),
        ("run", "UPDATE"),
        ("run", "DELETE"),
        ("provider_budget", "INSERT"),
        ("provider_budget", "UPDATE"),
        ("job", "INSERT"),
        ("job", "UPDATE"),
        ("job", "DELETE"),
        ("job_worker", "DELETE"),
        ("schedule", "INSERT"),
        ("schedule", "UPDATE"),
        ("schedule", "DELETE"),
        ("schedule_tick", "INSERT"),
        ("schedule_tick", "UPDATE"),
        ("schedule_tick", "DELETE"),
        ("sync_removed", "INSERT"),
        ("sync_removed", "UPDATE"),
        ("sync_removed", "DELETE"),
    }
)
"""All that the running product may write itself; money has its own door."""

_PROVISION: Final = "Run `steelyard migrate` and log in as the role it makes"
_DOOR: Final = "* steelyard_ledger true true"


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What the guard found where everything holds."""

    role: str


async def check_database(database: Database) -> GuardReport:
    """Let the process start on this database, or refuse.

    Raises:
        UnsafeDatabase: The logged-in role is too strong, a table lacks its wall, or the schema is not known.
        DatabaseUnavailable: It did not answer.
    """
    async with database.connection() as connection, connection.transaction(readonly=True):
        await store.name_everything_in_full(connection)
        login = await store.read_login(connection)
        check_login(login)
        for relation in (relations := await store.list_walls(connection)):
            check_relation(relation)
        check_tables_are_there({relation["relname"] for relation in relations})
        check_rights(login["rolname"], await store.list_rights(connection))
        check_door(may_log_in=await store.may_ledger_log_in(connection))
    return GuardReport(login["rolname"])


def check_login(login: asyncpg.Record) -> None:
    """Refuse a role that row-level security does not bind, or that could free itself of it.

    Raises:
        UnsafeDatabase: It is such a role.
    """
    role = login["rolname"]
    for column, what in (
        ("rolsuper", "is a superuser"),
        ("rolbypassrls", "has BYPASSRLS"),
        ("rolcreaterole", "has CREATEROLE"),
    ):
        if login[column]:
            raise UnsafeDatabase(
                found=f"the database role {role!r} {what} and would see every tenant's rows",
                remedy=_PROVISION,
            )
    if login["strong_groups"]:
        groups = ", ".join(login["strong_groups"])
        raise UnsafeDatabase(
            found=f"the database role {role!r} is a member of {groups} and could write money past its door",
            remedy=f"Revoke that membership. {_PROVISION}",
        )
    if login["owned"]:
        raise UnsafeDatabase(
            found=f"the database role {role!r} owns {', '.join(login['owned'])} and could take the walls down",
            remedy=_PROVISION,
        )


def check_relation(relation: asyncpg.Record) -> None:
    """Refuse a table or view that could show one tenant's rows to another.

    Raises:
        UnsafeDatabase: It is not known, its row security is off or not forced, or its policies are others.
    """
    name = relation["relname"]
    if relation["relkind"] == "v" and relation["is_invoker"]:
        return  # it reads with the caller's rights, so the tables' walls hold
    if relation["relkind"] not in ("r", "p"):
        raise UnsafeDatabase(
            found=f"steelyard.{name} reads with its owner's rights and would show every tenant's rows",
            remedy="Drop it, or make it a view with security_invoker",
        )
    if name in EXCEPTIONS:
        return
    if name not in TENANT_TABLES:
        raise UnsafeDatabase(
            found=f"the table steelyard.{name} is neither a tenant table nor a named exception",
            remedy="Run the release that knows it, or drop it",
        )
    if not (relation["relrowsecurity"] and relation["relforcerowsecurity"]):
        raise UnsafeDatabase(
            found=f"the table steelyard.{name} does not force row-level security",
            remedy="Switch its row-level security on and force it, as the migrations do",
        )
    wall = f"({TENANT_TABLES[name]} = ( SELECT steelyard.current_tenant() AS current_tenant))"
    if sorted(relation["policies"]) != [f"* public {wall} {wall}", _DOOR]:
        raise UnsafeDatabase(
            found=f"the policies of steelyard.{name} are not the two that let a tenant see its own rows"
            " and steelyard_ledger all",
            remedy="Restore the policies tenant_wall and ledger_door of the migrations and drop every other"
            " permissive one",
        )


def check_tables_are_there(found: set[str]) -> None:
    """Refuse a schema that lacks a table.

    Raises:
        UnsafeDatabase: One is missing.
    """
    missing = sorted((TENANT_TABLES.keys() | EXCEPTIONS.keys()) - found)
    if missing:
        raise UnsafeDatabase(
            found=f"the schema steelyard lacks {', '.join(missing)}",
            remedy="Run `steelyard migrate`",
        )


def check_door(*, may_log_in: bool) -> None:
    """Refuse a `steelyard_ledger` that somebody could log in as: it sees every tenant's rows.

    Raises:
        UnsafeDatabase: It may log in.
    """
    if may_log_in:
        raise UnsafeDatabase(
            found="the database role 'steelyard_ledger' can log in and would see every tenant's rows",
            remedy="Make it NOLOGIN again, as `steelyard migrate` made it",
        )


def check_rights(role: str, rights: set[tuple[str, str]]) -> None:
    """Refuse a role that may write more than the product writes itself.

    Raises:
        UnsafeDatabase: It may.
    """
    surplus = sorted(f"{verb} {table}" for table, verb in rights - ALLOWED_WRITES)
    if surplus:
        raise UnsafeDatabase(
            found=f"the database role {role!r} may {', '.join(surplus)} and could write past the one door",
            remedy="Revoke these rights",
        )
