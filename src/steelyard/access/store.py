"""All SQL of who asks. Every query names the tenant; row-level security is the second wall."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from steelyard.access.model import (
    ApiKey,
    AuditLine,
    Role,
    Tenant,
    TenantStatus,
    User,
    UserStatus,
)
from steelyard.core.ids import TenantId, UserId
from steelyard.runtime.database import Connection, Database, UnitOfWork

# --- standing: what may end a credential before its time --------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database says of a token's tenant and user; `user_status` is None for a user without a row."""

    tenant_status: TenantStatus
    user_status: UserStatus | None
    tokens_valid_from: datetime | None


async def find_standing(uow: UnitOfWork, user: UserId) -> Standing | None:
    """Return the standing of a user of the unit of work's tenant; None if there is no such tenant."""
    row = await uow.fetchrow(
        "SELECT t.status AS tenant_status, u.status AS user_status, u.tokens_valid_from"
        "  FROM steelyard.tenant t"
        "  LEFT JOIN steelyard.app_user u ON u.tenant_id = t.id AND u.id = $2"
        " WHERE t.id = $1",
        uow.tenant,
        user,
    )
    return None if row is None else _standing_of(row)


async def load_standings(
    database: Database, callers: Sequence[tuple[TenantId, UserId]]
) -> dict[tuple[TenantId, UserId], Standing]:
    """Return the standing of users of many tenants in one call; a tenant there is not is left out."""
    rows = await database.fetch(
        "SELECT * FROM steelyard.read_standings($1, $2)",
        [tenant for tenant, _ in callers],
        [user for _, user in callers],
    )
    return {(TenantId(row["tenant_id"]), UserId(row["user_id"])): _standing_of(row) for row in rows}


def _standing_of(row: asyncpg.Record) -> Standing:
    user_status = None if row["user_status"] is None else UserStatus(row["user_status"])
    return Standing(TenantStatus(row["tenant_status"]), user_status, row["tokens_valid_from"])


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is needed to believe an API key."""

    tenant: TenantId
    secret_hash: bytes
    role: Role
    expires_at: datetime | None
    revoked_at: datetime | None
    tenant_status: TenantStatus


async def find_api_key(database: Database, key_id: str) -> StoredKey | None:
    """Return a key of any tenant by its public id."""
    rows = await database.fetch("SELECT * FROM steelyard.find_api_key($1)", key_id)
    if not rows:
        return None
    row = rows[0]
    return StoredKey(
        TenantId(row["tenant_id"]),
        row["secret_hash"],
        Role(row["role"]),
        row["expires_at"],
        row["revoked_at"],
        TenantStatus(row["tenant_status"]),
    )


# --- API keys ---------------------------------------------------------------------------------

_KEY_COLUMNS = "tenant_id, id, name, role, created_by, created_at, expires_at, revoked_at"


async def insert_api_key(uow: UnitOfWork, key: ApiKey, *, secret_hash: bytes) -> None:
    """Write a new key."""
    await uow.execute(
        "INSERT INTO steelyard.api_key"
        " (tenant_id, id, secret_hash, name, role, created_by, created_at, expires_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.tenant,
        key.id,
        secret_hash,
        key.name,
        key.role.value,
        key.created_by,
        key.created_at,
        key.expires_at,
    )


async def list_api_keys(uow: UnitOfWork, *, after: str | None, limit: int) -> list[ApiKey]:
    """Return keys by id, from after the given one."""
    rows = await uow.fetch(
        f"SELECT {_KEY_COLUMNS} FROM steelyard.api_key"
        " WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        uow.tenant,
        after or "",
        limit,
    )
    return [_api_key(row) for row in rows]


async def revoke_api_key(uow: UnitOfWork, key_id: str, *, now: datetime) -> ApiKey | None:
    """End a key, keeping the time of an earlier end; None if there is no such key."""
    row = await uow.fetchrow(
        "UPDATE steelyard.api_key SET revoked_at = coalesce(revoked_at, $3)"
        f" WHERE tenant_id = $1 AND id = $2 RETURNING {_KEY_COLUMNS}",
        uow.tenant,
        key_id,
        now,
    )
    return None if row is None else _api_key(row)


def _api_key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        TenantId(row["tenant_id"]),
        row["id"],
        row["name"],
        Role(row["role"]),
        row["created_by"],
        row["created_at"],
        row["expires_at"],
        row["revoked_at"],
    )


# --- users ------------------------------------------------------------------------------------

_USER_COLUMNS = "tenant_id, id, display_name, status, tokens_valid_from, created_at"


async def insert_users(uow: UnitOfWork, users: Sequence[User]) -> set[UserId]:
    """Write the users whose ids are free; return which were. Locks in id order if `users` is in it."""
    rows = await uow.fetch(
        "INSERT INTO steelyard.app_user (tenant_id, id, display_name, status, created_at)"
        " SELECT $1, u.id, u.display_name, u.status, u.created_at"
        "   FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[])"
        "     AS u (id, display_name, status, created_at)"
        " ON CONFLICT (tenant_id, id) DO NOTHING RETURNING id",
        uow.tenant,
        [user.id for user in users],
        [user.display_name for user in users],
        [user.status.value for user in users],
        [user.created_at for user in users],
    )
    return {UserId(row["id"]) for row in rows}


async def lock_users(uow: UnitOfWork, ids: Sequence[UserId]) -> dict[UserId, User]:
    """Return the users that exist, each row locked until the unit of work ends, in id order."""
    rows = await uow.fetch(
        f"SELECT {_USER_COLUMNS} FROM steelyard.app_user"
        " WHERE tenant_id = $1 AND id = ANY ($2::text[]) ORDER BY id FOR UPDATE",
        uow.tenant,
        list(ids),
    )
    return {UserId(row["id"]): _user(row) for row in rows}


async def update_users(uow: UnitOfWork, users: Sequence[User]) -> None:
    """Write what a user can change: name, status and from when its tokens count."""
    await uow.execute(
        "UPDATE steelyard.app_user AS mine"
        "   SET display_name = u.display_name, status = u.status,"
        "       tokens_valid_from = u.tokens_valid_from"
        "  FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[])"
        "    AS u (id, display_name, status, tokens_valid_from)"
        " WHERE mine.tenant_id = $1 AND mine.id = u.id",
        uow.tenant,
        [user.id for user in users],
        [user.display_name for user in users],
        [user.status.value for user in users],
        [user.tokens_valid_from for user in users],
    )


async def find_user(uow: UnitOfWork, user: UserId) -> User | None:
    """Return a user of the tenant."""
    row = await uow.fetchrow(
        f"SELECT {_USER_COLUMNS} FROM steelyard.app_user WHERE tenant_id = $1 AND id = $2",
        uow.tenant,
        user,
    )
    return None if row is None else _user(row)


async def list_users(uow: UnitOfWork, *, after: str | None, limit: int) -> list[User]:
    """Return users by id, from after the given one."""
    rows = await uow.fetch(
        f"SELECT {_USER_COLUMNS} FROM steelyard.app_user"
        " WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        uow.tenant,
        after or "",
        limit,
    )
    return [_user(row) for row in rows]


def _user(row: asyncpg.Record) -> User:
    return User(
        TenantId(row["tenant_id"]),
        UserId(row["id"]),
        row["display_name"],
        UserStatus(row["status"]),
        row["tokens_valid_from"],
        row["created_at"],
    )


# --- tenants ----------------------------------------------------------------------------------


async def create_tenant(database: Database, tenant: Tenant) -> bool:
    """Make a tenant; False if its id is taken."""
    is_new: bool = await database.fetchval(
        "SELECT steelyard.create_tenant($1, $2, $3, $4)",
        tenant.created_at,
        tenant.id,
        tenant.name,
        tenant.time_zone,
    )
    return is_new


async def find_tenant(uow: UnitOfWork) -> Tenant | None:
    """Return the unit of work's own tenant."""
    row = await uow.fetchrow(
        "SELECT id, name, time_zone, status, created_at FROM steelyard.tenant WHERE id = $1",
        uow.tenant,
    )
    return None if row is None else _tenant(row)


async def list_tenants(database: Database) -> list[Tenant]:
    """Return every tenant by id; for the operator's commands only."""
    return [_tenant(row) for row in await database.fetch("SELECT * FROM steelyard.list_tenants()")]


def _tenant(row: asyncpg.Record) -> Tenant:
    return Tenant(
        TenantId(row["id"]),
        row["name"],
        row["time_zone"],
        TenantStatus(row["status"]),
        row["created_at"],
    )


# --- audit ------------------------------------------------------------------------------------


async def insert_audit(uow: UnitOfWork, line: AuditLine) -> int:
    """Append a line; its id comes from the database and is returned."""
    number: int = await uow.fetchval(
        "INSERT INTO steelyard.audit"
        " (tenant_id, at, actor, actor_role, action, target, outcome, request_id, details)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::json) RETURNING id",
        uow.tenant,
        line.at,
        line.actor,
        line.actor_role,
        line.action,
        line.target,
        line.outcome,
        line.request_id,
        None if line.details is None else json.dumps(line.details, allow_nan=False),
    )
    return number


async def list_audit(uow: UnitOfWork, *, before: int | None, limit: int) -> list[AuditLine]:
    """Return lines, newest first, from before the given id."""
    rows = await uow.fetch(
        "SELECT id, at, actor, actor_role, action, target, outcome, request_id, details"
        "  FROM steelyard.audit WHERE tenant_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        uow.tenant,
        before if before is not None else 2**63 - 1,
        limit,
    )
    return [_audit_line(row) for row in rows]


def _audit_line(row: asyncpg.Record) -> AuditLine:
    details: Mapping[str, object] | None = None
    if row["details"] is not None:
        details = json.loads(row["details"])
    return AuditLine(
        row["id"],
        row["at"],
        row["actor"],
        row["actor_role"],
        row["action"],
        row["target"],
        row["outcome"],
        row["request_id"],
        details,
    )


# --- the catalogue, for the start-up guard ----------------------------------------------------


async def name_everything_in_full(connection: Connection) -> None:
    """Make expressions of the catalogue read the same whatever the role's search path is; until commit."""
    await connection.execute("SET LOCAL search_path = pg_catalog")


async def read_login(connection: Connection) -> asyncpg.Record:
    """Return what the logged-in role is; membership counts whether or not it is inherited."""
    row = await connection.fetchrow(
        "SELECT r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole,"
        "       ARRAY (SELECT g.rolname::text FROM pg_roles g WHERE g.oid <> r.oid"
        "                 AND pg_has_role(r.oid, g.oid, 'MEMBER') AND (g.rolsuper OR g.rolbypassrls"
        "                 OR g.rolcreaterole OR g.rolname IN ('steelyard_owner', 'steelyard_ledger'))"
        "               ORDER BY g.rolname) AS strong_groups,"
        "       ARRAY (SELECT c.relname::text FROM pg_class c"
        "               WHERE c.relnamespace = to_regnamespace('steelyard')"
        "                 AND pg_has_role(r.oid, c.relowner, 'MEMBER') ORDER BY c.relname) AS owned"
        "  FROM pg_roles r WHERE r.rolname = session_user"
    )
    assert row is not None, "whoever is logged in is a role"
    return row


async def list_walls(connection: Connection) -> list[asyncpg.Record]:
    """Return every table and view of the schema, its row security, and each of its policies as one text."""
    return await connection.fetch(
        "SELECT c.relname, c.relkind::text AS relkind, c.relrowsecurity, c.relforcerowsecurity,"
        "       coalesce(c.reloptions @> '{security_invoker=true}', false) AS is_invoker,"
        "       ARRAY (SELECT concat_ws(' ', p.polcmd,"
        "                               (SELECT string_agg(coalesce(quote_ident(g.rolname), 'public'), ',')"
        "                                  FROM unnest(p.polroles) AS t (role) LEFT JOIN pg_roles g ON g.oid = t.role),"
        "                               pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))"
        "                FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive"
        "               ORDER BY p.polname) AS policies"
        "  FROM pg_class c WHERE c.relnamespace = to_regnamespace('steelyard')"
        "   AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname"
    )


async def list_rights(connection: Connection) -> set[tuple[str, str]]:
    """Return each (table, right to write) that the logged-in role has in the schema."""
    rows = await connection.fetch(
        "SELECT c.relname, w.verb FROM pg_class c"
        " CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS w (verb)"
        " WHERE c.relnamespace = to_regnamespace('steelyard') AND c.relkind IN ('r', 'p', 'f')"
        "   AND (has_table_privilege(session_user, c.oid, w.verb)"
        "        OR (w.verb IN ('INSERT', 'UPDATE')"
        "            AND has_any_column_privilege(session_user, c.oid, w.verb)))"
    )
    return {(row["relname"], row["verb"]) for row in rows}


async def may_ledger_log_in(connection: Connection) -> bool:
    """Say whether somebody could log in as the role that sees every tenant's rows."""
    may: bool | None = await connection.fetchval(
        "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'steelyard_ledger'"
    )
    return bool(may)
