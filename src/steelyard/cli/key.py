"""`steelyard key`: API keys of programs."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import print_table, say, show

if TYPE_CHECKING:
    from steelyard.access.api_keys import NewKey
    from steelyard.access.model import ApiKey
    from steelyard.runtime.settings import Settings

app = typer.Typer(
    add_completion=False, help="Make, list and revoke API keys.", no_args_is_help=True
)

KEYS_SHOWN = 1_000


@app.command(help="Make an API key. It is printed once and can never be read again.")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    *,
    role: Annotated[str, typer.Option("--role", help="service, operator or admin.")] = "service",
    ttl_days: Annotated[
        int | None,
        typer.Option("--ttl-days", min=1, max=3660, help="Days it lasts; no end if not given."),
    ] = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print the new key on stdout and nothing else."""
    ttl = None if ttl_days is None else timedelta(days=ttl_days)
    new = asyncio.run(_create(settings_with(data_dir), name, role=role, tenant=tenant, ttl=ttl))
    if not wants_json:
        say(f"API key {new.key.id} ({role}) of tenant {tenant}; this is the only time it is shown:")
    show(
        _as_json(new.key) | {"key": new.text},
        wants_json=wants_json,
        as_text=lambda: typer.echo(new.text),
    )


@app.command("list", help="List the API keys, without their secrets.")
def list_all(
    tenant: TenantName = "default", data_dir: DataDir = None, wants_json: Json = False
) -> None:
    """List the first 1,000 keys of a tenant."""
    keys = asyncio.run(_list(settings_with(data_dir), tenant))
    rows = [_as_json(key) for key in keys]
    show(
        rows,
        wants_json=wants_json,
        as_text=lambda: print_table(
            ("id", "name", "role", "created", "ends", "revoked"),
            [tuple(str(value or "") for value in row.values()) for row in rows],
        ),
    )


@app.command(help="End an API key; within 5 s no process takes it any more.")
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, the part after `sk_`.")],
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Revoke one key."""
    ended = asyncio.run(_revoke(settings_with(data_dir), key, tenant))
    show(
        _as_json(ended),
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"revoked API key {ended.id} ({ended.name})"),
    )


def _as_json(key: "ApiKey") -> dict[str, object]:
    from steelyard.core.clock import format_utc

    return {
        "id": key.id,
        "name": key.name,
        "role": str(key.role),
        "created_at": format_utc(key.created_at),
        "expires_at": format_utc(key.expires_at) if key.expires_at else None,
        "revoked_at": format_utc(key.revoked_at) if key.revoked_at else None,
    }


async def _create(
    settings: "Settings", name: str, *, role: str, tenant: str, ttl: timedelta | None
) -> "NewKey":
    from steelyard.access.api_keys import KeyOrder, create_api_key
    from steelyard.access.audit import record_audit
    from steelyard.access.model import Role, system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.cli.reach import reach_database
    from steelyard.core.errors import InvalidInput
    from steelyard.core.ids import parse_tenant_id
    from steelyard.runtime.clock import SystemClock

    if role not in list(Role):
        raise InvalidInput(
            field="role", problem=f"{role[:20]!r} is none of service, operator, admin"
        )
    tenant_id, now = parse_tenant_id(tenant), SystemClock().now()
    order = KeyOrder(name, Role(role), None if ttl is None else now + ttl)
    actor = system_principal(tenant_id, "cli")
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        await get_tenant(uow)
        new = await create_api_key(uow, order, created_by=actor.subject, now=now)
        await record_audit(uow, actor, action="key.create", now=now, target=f"key:{new.key.id}")
    return new


async def _list(settings: "Settings", tenant: str) -> "list[ApiKey]":
    from steelyard.access.api_keys import list_api_keys
    from steelyard.access.tenants import get_tenant
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id

    tenant_id = parse_tenant_id(tenant)
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        await get_tenant(uow)
        return await list_api_keys(uow, after=None, limit=KEYS_SHOWN)


async def _revoke(settings: "Settings", key: str, tenant: str) -> "ApiKey":
    from steelyard.access.api_keys import revoke_api_key
    from steelyard.access.audit import record_audit
    from steelyard.access.model import system_principal
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id
    from steelyard.runtime.clock import SystemClock

    tenant_id, now = parse_tenant_id(tenant), SystemClock().now()
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        ended = await revoke_api_key(uow, key, now=now)
        actor = system_principal(tenant_id, "cli")
        await record_audit(uow, actor, action="key.revoke", now=now, target=f"key:{ended.id}")
    return ended
