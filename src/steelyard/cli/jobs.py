"""`steelyard jobs`: runs of a tenant: listed, shown, asked for, ended, tried again, counted, cleaned up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import say, show
from steelyard.cli.print_runs import print_figures, print_run, print_runs
from steelyard.cli.program import program_of

if TYPE_CHECKING:
    from steelyard.access.model import Principal
    from steelyard.core.ids import TenantId
    from steelyard.jobs.manage_runs import Operator
    from steelyard.runtime.database import Database, UnitOfWork
    from steelyard.runtime.settings import Settings

Done = TypeVar("Done")
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]
KindName = Annotated[str | None, typer.Option("--kind", help="Only of this kind.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="Runs at most.")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", help="Go on: next_cursor of the page before.")
]

app = typer.Typer(
    add_completion=False,
    help="See and steer what is done in the background: syncs, proofs, clean-ups.",
    no_args_is_help=True,
)


@app.command("list", help="List runs, the newest first. Filters may be combined.")
def list_all(
    *,
    kind: KindName = None,
    state: Annotated[
        str | None,
        typer.Option("--state", help="Only in this state; several joined by commas."),
    ] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", help="Only about this, such as a user's id.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", help="Asked for from this moment on, UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", help="Asked for before this moment, UTC.")
    ] = None,
    error: Annotated[
        str | None, typer.Option("--error", help="Whose newest failure had this code.")
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print one page of runs."""
    from steelyard.jobs.list_runs import list_runs
    from steelyard.jobs.seen_run import EARLIEST, LATEST, RunFilter, read_states
    from steelyard.jobs.shapes import tell_page

    wanted = RunFilter(
        kinds=() if kind is None else (kind,),
        states=read_states(state),
        subject=subject,
        since=EARLIEST if since is None else since.replace(tzinfo=UTC),
        until=LATEST if until is None else until.replace(tzinfo=UTC),
        error_code=error,
    )

    async def act(uow: "UnitOfWork") -> dict[str, Any]:
        return tell_page(await list_runs(uow, wanted, cursor=cursor, limit=limit)).model_dump()

    _show_page(_run(data_dir, tenant, act), wants_json=wants_json)


@app.command("show", help="Show everything known of one run.")
def show_one(
    run: RunId,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print one run."""
    from steelyard.jobs.shapes import tell_run
    from steelyard.jobs.show_run import get_run

    async def act(uow: "UnitOfWork") -> dict[str, Any]:
        return tell_run(await get_run(uow, run)).model_dump()

    told = _run(data_dir, tenant, act)
    show(told, wants_json=wants_json, as_text=lambda: print_run(told))


@app.command(
    "run",
    help="Ask for a run of a kind; a server or worker does it. An equal one that waits is shared.",
)
def run_one(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="Such as balance-verify-sync or clean-up.")],
    *,
    subject: Annotated[str, typer.Option("--subject", help="What it is about.")] = "tenant",
    arguments: Annotated[
        str | None, typer.Option("--arguments", help="A JSON object for the job.")
    ] = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Queue one run and print its id."""
    given = _read_arguments(arguments)
    asked = (kind, subject, given)
    told = asyncio.run(_ask(program_of(context), settings_with(data_dir), tenant, asked))
    word = "queued" if told["is_new"] else "waits already:"
    show(
        told,
        wants_json=wants_json,
        as_text=lambda: typer.echo(f"{word} run {told['id']} of {told['kind']}"),
    )


@app.command(help="End a run: at once if it waits, within seconds if a worker has it.")
def cancel(
    run: RunId,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Cancel one run."""
    from steelyard.jobs.manage_runs import end_run

    async def act(uow: "UnitOfWork", operator: "Operator", now: datetime) -> dict[str, Any]:
        outcome, state = await end_run(uow, operator, run, now=now)
        return {"id": run, "outcome": str(outcome), "state": str(state)}

    told = _operate(data_dir, tenant, act)
    sentence = {
        "cancelled": f"run {run} is cancelled",
        "asked": f"run {run} is at work; its worker ends it within seconds",
        "ended": f"run {run} had ended ({told['state']}); nothing was changed",
    }[told["outcome"]]
    show(told, wants_json=wants_json, as_text=lambda: typer.echo(sentence))


@app.command(help="List dead letters: jobs that failed for good and can be tried again.")
def failed(
    *,
    kind: KindName = None,
    limit: Limit = 20,
    cursor: Cursor = None,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print one page of dead letters."""
    from steelyard.jobs.list_runs import list_dead_letters
    from steelyard.jobs.shapes import tell_page

    async def act(uow: "UnitOfWork") -> dict[str, Any]:
        found = await list_dead_letters(uow, kind, cursor=cursor, limit=limit)
        return tell_page(found).model_dump()

    _show_page(_run(data_dir, tenant, act), wants_json=wants_json)


@app.command(help="Try a dead letter again, under the same id and with all its attempts.")
def requeue(
    run: RunId,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Requeue one dead letter."""
    from steelyard.jobs.manage_runs import try_again

    async def act(uow: "UnitOfWork", operator: "Operator", now: datetime) -> dict[str, Any]:
        return {"id": run, "state": str(await try_again(uow, operator, run, now=now))}

    told = _operate(data_dir, tenant, act)
    show(told, wants_json=wants_json, as_text=lambda: typer.echo(f"run {run} is tried again"))


@app.command(
    help="Count runs by kind: what waits, what runs, what ended in the last day, how fast."
)
def stats(
    context: typer.Context,
    *,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print figures by kind."""
    from steelyard.cli.reach import reach_database
    from steelyard.jobs.shapes import tell_figures
    from steelyard.jobs.statistics import load_figures
    from steelyard.runtime.clock import SystemClock

    program, settings = program_of(context), settings_with(data_dir)

    async def count() -> list[dict[str, Any]]:
        async with reach_database(settings) as database:
            kinds = program.known_kinds(settings, database)
            async with _unit_of_work(database, tenant) as (uow, _):
                found = await load_figures(uow, kinds.names, now=SystemClock().now())
        return [one.model_dump() for one in tell_figures(found)]

    told = asyncio.run(count())
    show(told, wants_json=wants_json, as_text=lambda: print_figures(told))


@app.command("clean-up", help="Delete runs that ended long ago; --dry-run only counts them.")
def clean_up(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be deleted; change nothing.")
    ] = False,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Delete old runs now, as the job clean-up does at night; repeating it is harmless."""
    settings = settings_with(data_dir)
    deleted = asyncio.run(_clean_up(settings, tenant, dry_run=dry_run))
    told = {"dry_run": dry_run, "runs": sum(deleted.values()), "by_kind": deleted}
    word = "would be deleted" if dry_run else "deleted"
    sentence = f"{told['runs']} runs that ended over {settings.run_retention_days} days ago {word}"
    show(told, wants_json=wants_json, as_text=lambda: typer.echo(sentence))


def _show_page(told: dict[str, Any], *, wants_json: bool) -> None:
    show(told, wants_json=wants_json, as_text=lambda: print_runs(told["data"]))
    if told["has_more"] and not wants_json:
        say(f"There are older ones: --cursor {told['next_cursor']}")


def _read_arguments(text: str | None) -> dict[str, Any]:
    try:
        read = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"--arguments is no JSON: {error}") from None
    if not isinstance(read, dict):
        raise typer.BadParameter("--arguments must be a JSON object")
    return read


@asynccontextmanager
async def _unit_of_work(
    database: "Database", tenant: str
) -> "AsyncIterator[tuple[UnitOfWork, Principal]]":
    """Open a unit of work of a tenant that there is, and say who acts.

    Raises:
        NotFound: There is no such tenant.
    """
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.core.ids import parse_tenant_id

    tenant_id: TenantId = parse_tenant_id(tenant)
    async with database.unit_of_work(tenant_id) as uow:
        await get_tenant(uow)
        yield uow, system_principal(tenant_id, "cli")


def _run(data_dir: Any, tenant: str, act: "Callable[[UnitOfWork], Awaitable[Done]]") -> Done:
    """Run `act` in a unit of work of the tenant."""
    from steelyard.cli.reach import reach_database

    settings = settings_with(data_dir)

    async def run() -> Done:
        async with (
            reach_database(settings) as database,
            _unit_of_work(database, tenant) as (uow, _),
        ):
            return await act(uow)

    return asyncio.run(run())


def _operate(
    data_dir: Any,
    tenant: str,
    act: "Callable[[UnitOfWork, Operator, datetime], Awaitable[Done]]",
) -> Done:
    """Run `act` in a unit of work of the tenant, as whoever sits at the terminal."""
    from steelyard.cli.reach import reach_database
    from steelyard.jobs.manage_runs import Operator
    from steelyard.runtime.clock import SystemClock
    from steelyard.sync.cancel_run import CancelSyncRun
    from steelyard.sync.model import BALANCES

    settings, clock = settings_with(data_dir), SystemClock()
    elsewhere = {BALANCES: CancelSyncRun.of(settings, clock)}

    async def run() -> Done:
        async with (
            reach_database(settings) as database,
            _unit_of_work(database, tenant) as (uow, principal),
        ):
            operator = Operator(principal, cancel_elsewhere=elsewhere)
            return await act(uow, operator, clock.now())

    return asyncio.run(run())


async def _ask(
    program: Any, settings: "Settings", tenant: str, asked: tuple[str, str, dict[str, Any]]
) -> dict[str, Any]:
    from steelyard.access.audit import record_audit
    from steelyard.cli.reach import reach_database
    from steelyard.jobs.model import RunRequest
    from steelyard.jobs.request_run import request_run
    from steelyard.runtime.clock import SystemClock

    name, subject, arguments = asked
    now = SystemClock().now()
    async with reach_database(settings) as database:
        kind = program.known_kinds(settings, database).get(name).kind
        async with _unit_of_work(database, tenant) as (uow, principal):
            wanted = RunRequest(subject, arguments, requested_by=principal.subject)
            made = await request_run(uow, kind, wanted, now=now)
            await record_audit(
                uow,
                principal,
                action="run.request",
                target=f"run:{made.run}",
                now=now,
                details={"kind": kind.name, "subject": subject},
            )
    return {"id": str(made.run), "kind": kind.name, "is_new": made.is_new}


async def _clean_up(settings: "Settings", tenant: str, *, dry_run: bool) -> dict[str, int]:
    from datetime import timedelta

    from steelyard.access.audit import record_audit
    from steelyard.cli.reach import reach_database
    from steelyard.jobs.retention import Retention
    from steelyard.runtime.clock import SystemClock

    clock = SystemClock()
    async with reach_database(settings) as database:
        async with _unit_of_work(database, tenant) as (_, principal):
            pass  # the tenant is there
        kept = timedelta(days=settings.run_retention_days)
        retention = Retention(database, clock, kept)
        if dry_run:
            return await retention.count_old(principal.tenant)
        deleted = await retention.clean_up(principal.tenant)
        async with database.unit_of_work(principal.tenant) as uow:
            facts = {"runs_deleted": sum(deleted.values()), "by_kind": deleted}
            await record_audit(
                uow, principal, action="runs.clean_up", now=clock.now(), details=facts
            )
    return deleted
