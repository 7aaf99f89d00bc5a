"""`steelyard verify`, also `steelyard balance:verify-sync`: proves balances, and repairs them on request."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import CommandFailed, ExitCode, leave, print_json, say
from steelyard.cli.verify_output import Asked, print_report, report_json

if TYPE_CHECKING:
    from steelyard.reconcile.anchor import Anchor
    from steelyard.reconcile.model import Progress, Report
    from steelyard.reconcile.operations import Reconcile
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False, help="Prove every balance from its changes.")
_SHOWN_EVERY_S = 0.1


@app.command(help="Prove every balance from its changes; --fix repairs what can be proved.")
def verify(
    *,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be proved.")] = False,
    user: Annotated[
        str | None, typer.Option("--user-id", help="Only this user's accounts.", metavar="ID")
    ] = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Recompute every account from its changes; asks first."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for cron.")] = False,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what is new since the last time.")
    ] = False,
    anchor: Annotated[
        Path | None,
        typer.Option(
            "--anchor", help="File of all heads, kept elsewhere: written if new, else checked."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --fix or --rebuild: say what would be repaired.")
    ] = False,
    tenant: TenantName = "default",
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Verify one tenant; ends with exit code 6 while discrepancies remain."""
    asked = Asked(
        fix=fix,
        user=user,
        rebuild=rebuild,
        incremental=incremental,
        anchor=anchor,
        is_anchor_there=anchor is not None and anchor.exists(),
        dry_run=dry_run,
    )
    check_options(asked)
    if rebuild and not (yes or dry_run):
        typer.confirm(
            f"Recompute every balance of tenant {tenant!r} from its changes?", abort=True, err=True
        )
    report, taken = asyncio.run(_run(settings_with(data_dir), tenant, asked, wants_json))
    if wants_json:
        print_json(report_json(report, taken))
    else:
        print_report(report, asked, taken)
    if not report.is_clean:
        leave(ExitCode.DISCREPANCIES_REMAIN)


def check_options(asked: Asked) -> None:
    """Refuse options that say two things.

    Raises:
        typer.BadParameter: They do.
    """
    if asked.rebuild and (asked.fix or asked.user or asked.incremental):
        raise typer.BadParameter(
            "--rebuild recomputes everything; it goes without --fix, --user-id, --incremental"
        )
    if asked.incremental and (asked.user or asked.anchor):
        raise typer.BadParameter("--incremental goes without --user-id and --anchor")
    if asked.user and asked.anchor:
        raise typer.BadParameter("--anchor is of all accounts; it goes without --user-id")
    if asked.dry_run and not (asked.fix or asked.rebuild):
        raise typer.BadParameter(
            "--dry-run goes with --fix or --rebuild; verify alone changes nothing"
        )


async def _run(
    settings: "Settings", tenant: str, asked: Asked, wants_json: bool
) -> tuple["Report", "Anchor | None"]:
    from steelyard.access.model import system_principal
    from steelyard.access.tenants import get_tenant
    from steelyard.cli.reach import reach_database, reach_redis
    from steelyard.core.ids import parse_tenant_id
    from steelyard.reconcile.operations import Reconcile
    from steelyard.runtime.bus import InProcessBus
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.logs import configure_logs

    configure_logs(form=settings.log_format, level=settings.log_level)
    tenant_id, bus = parse_tenant_id(tenant), InProcessBus()
    async with reach_database(settings) as database:
        async with database.unit_of_work(tenant_id) as uow:
            await get_tenant(uow)
        async with reach_redis(settings, database, bus) as redis:
            reconcile = Reconcile(
                database,
                tenant_id,
                SystemClock(),
                cache=redis.cache if redis else None,
                bus=bus,
                actor=system_principal(tenant_id, "cli"),
            )
            return await prove(reconcile, asked, hidden=wants_json)


async def prove(
    reconcile: "Reconcile", asked: Asked, *, hidden: bool = False
) -> tuple["Report", "Anchor | None"]:
    """Do what was asked on an open database; progress goes to stderr.

    Returns:
        The report, and the anchor that was written or checked.
    """
    from steelyard.cli.progress import progress_bar
    from steelyard.core.ids import parse_user_id

    user = None if asked.user is None else parse_user_id(asked.user)
    with progress_bar("verify", hidden=hidden) as draw:
        move = seldom(draw)
        if asked.rebuild and not asked.dry_run:
            report = await reconcile.rebuild_all(progress=move)
        elif asked.incremental:
            report = await reconcile.verify_incremental(progress=move)
            if asked.fix and not asked.dry_run and not report.is_clean:
                report = await reconcile.fix(report, progress=move)
        elif asked.fix and not asked.dry_run:
            report = await reconcile.verify_and_fix(user, progress=move)
        else:
            report = await reconcile.verify(user, progress=move)
        if user is not None and report.accounts == 0:
            from steelyard.core.errors import NotFound

            raise NotFound(kind="user with an account", identifier=user)
        taken = None
        if asked.anchor is not None:
            taken = await _anchor(reconcile, report, asked, move)
    return report, taken


async def _anchor(
    reconcile: "Reconcile", report: "Report", asked: Asked, move: "Progress"
) -> "Anchor":
    path = asked.anchor
    assert path is not None
    if asked.is_anchor_there:
        anchor, lost = await reconcile.check_anchor(path, progress=move)
        known = {one.user for one in report.details}
        report.details += lost
        report.errors += lost
        report.synced -= len({one.user for one in lost if one.user is not None} - known)
        return anchor
    if not report.is_clean:
        raise CommandFailed(
            f"{path} was not written: an anchor is taken of what was proved, and discrepancies remain"
        )
    anchor = await reconcile.write_anchor(path)
    say(
        f"Anchor of {anchor.accounts:,} accounts written to {path}; keep it, or its digest, elsewhere"
    )
    return anchor


def seldom(move: "Progress") -> "Progress":
    """Return `move`, called at most ten times a second and at every new step."""
    told_step, told_at_s = "", 0.0

    def told(step: str, done: int, total: int) -> None:
        nonlocal told_step, told_at_s
        now_s = time.monotonic()
        if step != told_step or done >= total or now_s - told_at_s > _SHOWN_EVERY_S:
            told_step, told_at_s = step, now_s
            move(step, done, total)

    return told
