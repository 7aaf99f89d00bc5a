"""`steelyard sync`: what waits to be synced, and whose balances at the core bank are mirrored."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import show

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

app = typer.Typer(
    add_completion=False, help="Mirror balances of the core bank.", no_args_is_help=True
)


@app.callback()
def sync() -> None:
    """Mirror balances of the core bank."""


@app.command(help="Show how many syncs are due and in flight, by tenant.")
def status(data_dir: DataDir = None, wants_json: Json = False) -> None:
    """Print the status of the whole installation."""
    found = asyncio.run(_status(settings_with(data_dir)))
    word = "at work" if found["processing"] else "idle"
    show(
        found,
        wants_json=wants_json,
        as_text=lambda: typer.echo(
            f"{found['priority']} logins and {found['background']} other syncs are due; {word}"
        ),
    )


@app.command(help="Mirror an account that a user has at the core bank.")
def add(
    user: Annotated[str, typer.Argument(help="The user's id; it must exist.")],
    number: Annotated[str, typer.Argument(help="The account's number at the core bank.")],
    *,
    currency: Annotated[str, typer.Option("--currency", help="The account's currency.")],
    tenant: TenantName = "default",
    account_type: Annotated[
        str | None, typer.Option("--type", help="Such as SAVINGS or CURRENT.")
    ] = None,
    is_primary: Annotated[
        bool, typer.Option("--primary", help="The one a login is answered with.")
    ] = False,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Enroll one account; its balance is pulled from now on."""
    wanted = (user, number, currency, account_type, is_primary)
    made = asyncio.run(_add(settings_with(data_dir), tenant, wanted))
    word = "mirrors" if made["opened"] else "mirrored already:"
    show(
        made,
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"{word} account {made['account']} of user {user}"),
    )


async def _status(settings: "Settings") -> dict[str, object]:
    from steelyard.cli.reach import reach_database
    from steelyard.runtime.clock import SystemClock
    from steelyard.sync.status import load_status

    async with reach_database(settings) as database:
        found = await load_status(database, SystemClock())
    lanes = [
        {
            "tenant": lane.tenant,
            "provider": lane.provider,
            "priority": lane.priority_due,
            "background": lane.background_due,
            "in_flight": lane.in_flight,
        }
        for lane in found.lanes
    ]
    return {
        "service": "balance-sync",
        "priority": found.priority,
        "background": found.background,
        "processing": found.processing,
        "lanes": lanes,
    }


async def _add(
    settings: "Settings", tenant: str, wanted: tuple[str, str, str, str | None, bool]
) -> dict[str, object]:
    from datetime import timedelta

    from steelyard.access.audit import record_audit
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.balances.store import open_book
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id, parse_user_id
    from steelyard.mirror.model import NewMirroredAccount
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.currencies import find_currency
    from steelyard.sync.enroll import Enrollment, enroll_accounts
    from steelyard.sync.open_sync import CORE_BANK

    user, number, code, account_type, is_primary = wanted
    tenant_id, now, currency = parse_tenant_id(tenant), SystemClock().now(), find_currency(code)
    account = NewMirroredAccount(
        parse_user_id(user), CORE_BANK, number, currency, account_type, is_primary
    )
    interval_ms = settings.balance_sync_interval
    interval = timedelta(milliseconds=interval_ms) if interval_ms else None
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        await get_tenant(uow)
        await open_book(uow, currency, now=now)
        [(made, opened)] = await enroll_accounts(
            uow, [account], Enrollment(CORE_BANK, interval), now=now
        )
        if opened:
            actor = system_principal(tenant_id, "cli")
            await record_audit(uow, actor, action="sync.enroll", now=now, target=f"user:{user}")
    return {"user": user, "tenant": tenant, "account": str(made), "opened": opened}
