"""`steelyard schedule`: when named work begins by itself, shown and changed."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import print_table, show
from steelyard.cli.program import Program, program_of

if TYPE_CHECKING:
    from steelyard.runtime.database import UnitOfWork
    from steelyard.schedules.edit_schedules import Edits, Wanted
    from steelyard.schedules.shapes import ToldSchedule

Done = TypeVar("Done")
Name = Annotated[str, typer.Argument(help="The schedule's name.")]

OWN_ZONE, ALL_HOURS = "tenant", "all"
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

app = typer.Typer(
    add_completion=False, help="Show and change when named work begins.", no_args_is_help=True
)


@app.callback()
def schedule() -> None:
    """Show and change when named work begins."""


@app.command("list", help="List a tenant's schedules with their next ticks.")
def list_all(
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print every schedule of one tenant."""
    from steelyard.schedules import edit_schedules
    from steelyard.schedules.shapes import tell_schedule

    async def act(uow: "UnitOfWork", edits: "Edits") -> "list[ToldSchedule]":
        found = await edit_schedules.list_schedules(uow, now=edits.now)
        return [tell_schedule(one) for one in found]

    told = _run(data_dir, tenant, act)
    show(
        [one.model_dump() for one in told],
        wants_json=wants_json,
        as_text=lambda: print_table(
            ("name", "kind", "when", "zone", "next there", "next (UTC)", "last tick (UTC)"),
            [_row(one) for one in told],
        ),
    )


@app.command("show", help="Show one schedule and its next three ticks.")
def show_one(
    name: Name,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print one schedule."""
    from steelyard.schedules import edit_schedules
    from steelyard.schedules.shapes import tell_schedule

    async def act(uow: "UnitOfWork", edits: "Edits") -> "ToldSchedule":
        return tell_schedule(await edit_schedules.get_schedule(uow, name, now=edits.now))

    _show_one(_run(data_dir, tenant, act), wants_json=wants_json)


@app.command("set", help="Make a schedule, or change what is given of one.")
def set_one(
    context: typer.Context,
    name: Name,
    *,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Kind of job; a new schedule needs one.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", help="Five fields: minute hour day month weekday.")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", help="A period instead: 90s, 30m, 6h or 1d.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", help="IANA zone; 'tenant' follows the tenant's.")
    ] = None,
    hours: Annotated[
        str | None,
        typer.Option("--hours", help="Only within, 'mon-fri 08:00-20:00'; 'all' for no limit."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="What the job is about; 'tenant' if new.")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option("--arguments", help="A JSON object for the job.")
    ] = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Make or change one schedule; it ticks from now on."""
    timing = _timing(cron, every, zone, hours)
    work = {"kind": kind, "subject": subject, "arguments": _arguments(arguments)}
    given = {key: value for key, value in work.items() if value is not None}
    change = Change(name, timing, given)
    _change(context, change, data_dir=data_dir, tenant=tenant, wants_json=wants_json)


@app.command(help="Switch a schedule on: it goes on with its next tick.")
def on(
    context: typer.Context,
    name: Name,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Switch one schedule on."""
    change = Change(name, {}, {"is_on": True})
    _change(context, change, data_dir=data_dir, tenant=tenant, wants_json=wants_json)


@app.command(help="Switch a schedule off.")
def off(
    context: typer.Context,
    name: Name,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Switch one schedule off."""
    change = Change(name, {}, {"is_on": False})
    _change(context, change, data_dir=data_dir, tenant=tenant, wants_json=wants_json)


@app.command(help="Begin a schedule's work now; its next tick stays where it is.")
def run(
    context: typer.Context,
    name: Name,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Queue one run, for a worker to begin."""
    from steelyard.runtime.ids import RandomIds
    from steelyard.schedules import edit_schedules

    async def act(uow: "UnitOfWork", edits: "Edits") -> dict[str, object]:
        begun = await edit_schedules.run_schedule(uow, name, edits, ids=RandomIds())
        return {"run": str(begun.run), "new": begun.is_new}

    told = _run(data_dir, tenant, act, program_of(context))
    word = "queued" if told["new"] else "shares a run that waits already:"
    show(
        told,
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"{word} run {told['run']} of {name}"),
    )


@app.command(help="Remove a schedule of your own.")
def remove(
    name: Name,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Remove one schedule; runs that it began stay."""
    from steelyard.schedules import edit_schedules

    async def act(uow: "UnitOfWork", edits: "Edits") -> dict[str, object]:
        await edit_schedules.remove_schedule(uow, name, edits)
        return {"removed": name}

    told = _run(data_dir, tenant, act)
    show(told, wants_json=wants_json, as_text=lambda: typer.echo(f"removed {name}"))


@dataclass(frozen=True, slots=True)
class Change:
    """What was given of a schedule."""

    name: str
    timing: dict[str, Any]
    given: dict[str, Any]


def _change(
    context: typer.Context, change: Change, *, data_dir: DataDir, tenant: str, wants_json: bool
) -> None:
    """Change what is given of a schedule, or make it where there is none and a kind is given."""
    from steelyard.schedules import edit_schedules
    from steelyard.schedules.edit_schedules import Wanted, with_timing
    from steelyard.schedules.model import Timing
    from steelyard.schedules.shapes import tell_schedule

    name, kind = change.name, change.given.get("kind")

    def apply(wanted: "Wanted") -> "Wanted":
        return with_timing(wanted, change.timing, change.given)

    async def act(uow: "UnitOfWork", edits: "Edits") -> "ToldSchedule":
        there = {one.name for one in await edit_schedules.list_schedules(uow, now=edits.now)}
        if name in there or kind is None:
            return tell_schedule(await edit_schedules.change_schedule(uow, name, apply, edits))
        wanted = apply(Wanted(kind, Timing()))
        made, _ = await edit_schedules.put_schedule(uow, name, wanted, edits)
        return tell_schedule(made)

    told = _run(data_dir, tenant, act, program_of(context))
    _show_one(told, wants_json=wants_json)


def _run(
    data_dir: DataDir,
    tenant: str,
    act: "Callable[[UnitOfWork, Edits], Awaitable[Done]]",
    program: Program | None = None,
) -> Done:
    """Do something in one unit of work of the tenant, as the person at the terminal.

    Args:
        program: Knows the kinds of jobs; importing it takes a second, so only for what needs them.
    """
    return asyncio.run(_in_tenant(program, data_dir, tenant, act))


async def _in_tenant(
    program: Program | None,
    data_dir: DataDir,
    tenant: str,
    act: "Callable[[UnitOfWork, Edits], Awaitable[Done]]",
) -> Done:
    from steelyard.access.model import system_principal
    from steelyard.cli.reach import reach_database
    from steelyard.core.ids import parse_tenant_id
    from steelyard.jobs.model import Kinds
    from steelyard.runtime.clock import SystemClock
    from steelyard.schedules.edit_schedules import Edits

    settings, tenant_id = settings_with(data_dir), parse_tenant_id(tenant)
    async with reach_database(settings) as database:
        kinds = Kinds() if program is None else program.known_kinds(settings, database)
        by = system_principal(tenant_id, "cli")
        async with database.unit_of_work(tenant_id) as uow:
            return await act(uow, Edits(by, kinds, SystemClock().now()))


def _timing(
    cron: str | None, every: str | None, zone: str | None, hours: str | None
) -> dict[str, Any]:
    timing: dict[str, Any] = {}
    if cron is not None:
        timing["cron"] = cron
    if every is not None:
        timing["every_s"] = _seconds(every)
    if zone is not None:
        timing["zone"] = None if zone == OWN_ZONE else zone
    if hours is not None:
        timing["hours"] = None if hours == ALL_HOURS else hours
    return timing


def _seconds(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not (number.isascii() and number.isdigit()) or len(number) > 8:
        raise typer.BadParameter(
            "a period is a number and s, m, h or d, such as 6h", param_hint="--every"
        )
    return int(number) * _SECONDS[unit]


def _arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter("this is no JSON", param_hint="--arguments") from error
    if not isinstance(found, dict):
        raise typer.BadParameter("this is no JSON object", param_hint="--arguments")
    return found


def _show_one(told: "ToldSchedule", *, wants_json: bool) -> None:
    show(told.model_dump(), wants_json=wants_json, as_text=lambda: _print_one(told))


def _print_one(told: "ToldSchedule") -> None:
    facts = {
        "name": told.name,
        "family": told.family,
        "kind": told.kind,
        "subject": told.subject,
        "arguments": json.dumps(told.arguments, ensure_ascii=False),
        "when": _when(told),
        "zone": told.in_zone if told.zone else f"{told.in_zone} (the tenant's)",
        "last tick (UTC)": told.last_planned_for or "none yet",
        "last run": told.last_run_id or "none yet",
        "edited": f"{told.edited_at} by {told.edited_by}",
    }
    print_table(("", ""), list(facts.items()))
    if not told.enabled:
        typer.echo("It is switched off.")
        return
    print_table((f"next in {told.in_zone}", "UTC"), [(one.local, one.at) for one in told.next])


def _row(told: "ToldSchedule") -> tuple[str, ...]:
    first = told.next[0] if told.next else None
    return (
        told.name,
        told.kind,
        _when(told),
        told.in_zone,
        first.local if first else "off",
        first.at if first else "off",
        told.last_planned_for or "",
    )


def _when(told: "ToldSchedule") -> str:
    if told.every_s is None:
        text = told.cron or ""
    else:
        unit = max(
            (one for one in _SECONDS if told.every_s % _SECONDS[one] == 0), key=_SECONDS.__getitem__
        )
        text = f"every {told.every_s // _SECONDS[unit]}{unit}"
    return f"{text} within {told.hours}" if told.hours else text
