"""`steelyard tenant`: makes, sets and lists tenants."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, settings_with
from steelyard.cli.outcome import AlreadyThere, print_table, show

if TYPE_CHECKING:
    from steelyard.access.model import Tenant
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False, help="Make, set and list tenants.", no_args_is_help=True)


@app.command(help="Make a tenant and open its books in the currencies named.")
def create(
    tenant: Annotated[str, typer.Argument(help="Its id: a-z, 0-9 and '-'.")],
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Its name; the id if not given.")
    ] = None,
    time_zone: Annotated[str, typer.Option("--time-zone", help="IANA zone.")] = "UTC",
    currency: Annotated[
        list[str] | None, typer.Option("--currency", help="ISO 4217 code; may be repeated.")
    ] = None,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Create one tenant."""
    made = asyncio.run(
        _create(
            settings_with(data_dir), tenant, name=name, time_zone=time_zone, codes=currency or []
        )
    )
    if not made:
        raise AlreadyThere(
            f"the tenant {tenant!r} is there already; its books were opened if they were not"
        )
    show(
        {
            "tenant": tenant,
            "name": name or tenant,
            "time_zone": time_zone,
            "currencies": currency or [],
        },
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"made the tenant {tenant}"),
    )


@app.command("set", help="Set a tenant's time zone; schedules without one of their own follow it.")
def set_one(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    *,
    zone: Annotated[str, typer.Option("--zone", help="IANA zone, as in Africa/Lusaka.")],
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Set the zone of one tenant."""
    moved = asyncio.run(_set_zone(settings_with(data_dir), tenant, zone))
    show(
        {"tenant": tenant, "time_zone": zone, "schedules_moved": moved},
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"{tenant} is in {zone}; {moved} schedules tick by it"),
    )


@app.command("list", help="List the tenants.")
def list_all(data_dir: DataDir = None, wants_json: Json = False) -> None:
    """List every tenant of the installation."""
    tenants = asyncio.run(_list(settings_with(data_dir)))
    rows = [
        {"tenant": one.id, "name": one.name, "time_zone": one.time_zone, "status": str(one.status)}
        for one in tenants
    ]
    show(
        rows,
        wants_json=wants_json,
        as_text=lambda: print_table(
            ("tenant", "name", "time zone", "status"), [tuple(row.values()) for row in rows]
        ),
    )


async def _create(
    settings: "Settings", tenant: str, *, name: str | None, time_zone: str, codes: list[str]
) -> bool:
    from steelyard.access.audit import record_audit
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import create_tenant
    from steelyard.balances.store import open_book
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.currencies import find_currency

    tenant_id, now = parse_tenant_id(tenant), SystemClock().now()
    currencies = [find_currency(code) for code in codes]
    async with reach_database(settings) as database:
        made = await create_tenant(
            database, tenant_id, name=name or tenant, time_zone=time_zone, now=now
        )
        async with database.unit_of_work(tenant_id) as uow:
            for currency in currencies:
                await open_book(uow, currency, now=now)
            if made:
                actor = system_principal(tenant_id, "cli")
                await record_audit(
                    uow, actor, action="tenant.create", now=now, target=f"tenant:{tenant_id}"
                )
    return made


async def _set_zone(settings: "Settings", tenant: str, zone: str) -> int:
    from steelyard.access.model import system_principal
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id
    from steelyard.runtime.clock import SystemClock
    from steelyard.schedules.edit_schedules import set_zone

    tenant_id = parse_tenant_id(tenant)
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        by = system_principal(tenant_id, "cli")
        return await set_zone(uow, zone, by=by, now=SystemClock().now())


async def _list(settings: "Settings") -> "list[Tenant]":
    from steelyard.access.tenants import list_tenants
    from steelyard.cli.reach import reach_database

    async with reach_database(settings) as database:
        return await list_tenants(database)
