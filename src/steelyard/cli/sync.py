"""`steelyard sync`: what waits to be synced, whose balances at the core bank are mirrored, and who is paused."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import show

if TYPE_CHECKING:
    from steelyard.runtime.database import Database
    from steelyard.runtime.settings import Settings
    from steelyard.sync.describe_sync import Viewer

app = typer.Typer(
    add_completion=False, help="Mirror balances of the core bank.", no_args_is_help=True
)


@app.callback()
def sync() -> None:
    """Mirror balances of the core bank."""


UserId = Annotated[str | None, typer.Option("--user", help="One user.", show_default=False)]
Provider = Annotated[
    str | None,
    typer.Option("--provider", help="All of the tenant at this source.", show_default=False),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Kept in the audit record.")]


@app.command(help="Show what is due and in flight, and how each source stands, by tenant.")
def status(
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print the status of the whole installation."""
    found = asyncio.run(_status(settings_with(data_dir)))
    show(found, wants_json=wants_json, as_text=lambda: _print_status(found))


@app.command(help="Show one user: accounts, balances and their age, what is next, the last runs.")
def user(
    user: Annotated[str, typer.Argument(help="The user's id.")],
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print everything of one user's syncs."""
    from steelyard.cli.sync_output import print_user

    told = asyncio.run(_user(settings_with(data_dir), tenant, user))
    show(told, wants_json=wants_json, as_text=lambda: print_user(told))


@app.command(help="Ask for nothing more, of one user or of all at a source, until resumed.")
def pause(
    *,
    user: UserId = None,
    provider: Provider = None,
    reason: Reason = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Pause; what is in flight ends, and logins get the stored balance at once."""
    order = _Order(tenant, user, provider, reason)
    changed = bool(asyncio.run(_control(settings_with(data_dir), "pause", order)))
    word = "paused" if changed else "was paused already:"
    _tell_control({"paused": True, "changed": changed}, f"{word} {order.named}", wants_json)


@app.command(help="Ask again for what is due.")
def resume(
    *,
    user: UserId = None,
    provider: Provider = None,
    reason: Reason = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Resume what was paused."""
    order = _Order(tenant, user, provider, reason)
    changed = bool(asyncio.run(_control(settings_with(data_dir), "resume", order)))
    word = "resumed" if changed else "was not paused:"
    _tell_control({"paused": False, "changed": changed}, f"{word} {order.named}", wants_json)


@app.command(help="End what a user's syncs are at; nothing that one in flight brings is written.")
def cancel(
    *,
    user: Annotated[str, typer.Option("--user", help="Whose.")],
    reason: Reason = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Cancel the runs of a user that have not ended."""
    order = _Order(tenant, user, None, reason)
    count = int(asyncio.run(_control(settings_with(data_dir), "cancel", order)))
    word = "run" if count == 1 else "runs"
    _tell_control({"cancelled": count}, f"cancelled {count} {word} of {order.named}", wants_json)


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


@dataclass(frozen=True, slots=True)
class _Order:
    """What is paused, resumed or cancelled: `user`, or all at `provider`."""

    tenant: str
    user: str | None
    provider: str | None
    reason: str | None

    def __post_init__(self) -> None:
        """Refuse an order for nobody or for two things at once."""
        if (self.user is None) == (self.provider is None):
            raise typer.BadParameter("give --user, or --provider for all of the tenant there")

    @property
    def named(self) -> str:
        """What it is about, in words."""
        place = f"all users at {self.provider}" if self.user is None else f"user {self.user}"
        return f"{place} of tenant {self.tenant}"


def _tell_control(value: dict[str, object], sentence: str, wants_json: bool) -> None:
    show(value, wants_json=wants_json, as_text=lambda: typer.echo(sentence))


def _print_status(found: "dict[str, Any]") -> None:
    from steelyard.cli.sync_output import print_sources

    word = "at work" if found["processing"] else "idle"
    counts = f"{found['priority']} logins and {found['background']} other syncs are due"
    typer.echo(f"{counts}; {word}")
    if found["lanes"]:
        print_sources(found["lanes"])


def _viewer(settings: "Settings", database: "Database") -> "Viewer":
    from datetime import timedelta

    from steelyard.runtime.clock import SystemClock
    from steelyard.sync.describe_sync import Viewer

    interval_ms = settings.balance_sync_interval
    interval = timedelta(milliseconds=interval_ms) if interval_ms else None
    return Viewer(database, SystemClock(), interval)


async def _status(settings: "Settings") -> "dict[str, Any]":
    from steelyard.cli.reach import reach_database
    from steelyard.cli.sync_output import lane_of
    from steelyard.sync.open_sync import CORE_BANK
    from steelyard.sync.status import load_status

    async with reach_database(settings) as database:
        viewer = _viewer(settings, database)
        found = await load_status(database, viewer.clock)
        sources = await viewer.sources([CORE_BANK])
    return {
        "service": "balance-sync",
        "priority": found.priority,
        "background": found.background,
        "processing": found.processing,
        "lanes": [lane_of(one, viewer.clock.now()) for one in sources],
    }


async def _user(settings: "Settings", tenant: str, user: str) -> "dict[str, Any]":
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id, parse_user_id
    from steelyard.sync.control_api import tell_user
    from steelyard.sync.open_sync import CORE_BANK

    place = parse_tenant_id(tenant), parse_user_id(user)
    async with reach_database(settings) as database:
        found = await _viewer(settings, database).user(*place, CORE_BANK)
    return tell_user(found).model_dump()


async def _control(settings: "Settings", verb: str, order: _Order) -> int:
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id, parse_user_id
    from steelyard.sync.control_sync import ControlOrder, cancel_sync, pause_sync, resume_sync
    from steelyard.sync.open_sync import CORE_BANK

    tenant = parse_tenant_id(order.tenant)
    user = None if order.user is None else parse_user_id(order.user)
    wanted = ControlOrder(order.provider or CORE_BANK, user, order.reason)
    actor = system_principal(tenant, "cli")
    async with reach_database(settings) as database, database.unit_of_work(tenant) as uow:
        await get_tenant(uow)
        viewer = _viewer(settings, database)
        now = viewer.clock.now()
        if verb == "pause":
            return await pause_sync(uow, actor, wanted, now=now)
        if verb == "resume":
            return await resume_sync(uow, actor, wanted, now=now)
        return await cancel_sync(uow, actor, wanted, interval=viewer.interval, now=now)


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
