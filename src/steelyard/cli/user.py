"""`steelyard user`: makes users."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import show

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False, help="Make users and their accounts.", no_args_is_help=True)


@app.callback()
def users() -> None:
    """Make users and their accounts."""


@app.command(help="Make a user, and an account where a currency is named.")
def add(
    user: Annotated[str, typer.Argument(help="The user's id, the `sub` of its tokens.")],
    *,
    tenant: TenantName = "default",
    name: Annotated[str | None, typer.Option("--name", help="Display name.")] = None,
    currency: Annotated[
        str | None, typer.Option("--currency", help="Open an account in this currency.")
    ] = None,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Create one user."""
    made = asyncio.run(_add(settings_with(data_dir), user, tenant=tenant, name=name, code=currency))
    account = f", account {made['account']}" if made["account"] else ""
    word = "made" if made["created"] else "was there already:"
    show(
        made,
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"{word} user {user} of tenant {tenant}{account}"),
    )


async def _add(
    settings: "Settings", user: str, *, tenant: str, name: str | None, code: str | None
) -> dict[str, object]:
    from steelyard.access.audit import record_audit
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.access.users import NewUser, create_user
    from steelyard.balances.model import NewAccount
    from steelyard.balances.store import open_accounts, open_book
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id, parse_user_id
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.currencies import find_currency

    tenant_id, now = parse_tenant_id(tenant), SystemClock().now()
    new = NewUser(parse_user_id(user), name)
    currency = None if code is None else find_currency(code)
    account: str | None = None
    async with reach_database(settings) as database, database.unit_of_work(tenant_id) as uow:
        await get_tenant(uow)
        _, created = await create_user(uow, new, now=now)
        if currency is not None:
            await open_book(uow, currency, now=now)
            wanted = NewAccount(new.id, currency, reference=f"{new.id}/{currency.code}")
            account = str((await open_accounts(uow, [wanted], now=now))[0][0])
        if created:
            actor = system_principal(tenant_id, "cli")
            await record_audit(uow, actor, action="user.create", now=now, target=f"user:{user}")
    return {"user": user, "tenant": tenant, "created": created, "account": account}
