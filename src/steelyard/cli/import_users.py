"""`steelyard import users`: brings users and their accounts at the core bank to what a file says of them."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import CommandFailed, ExitCode, leave, print_table, show

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings
    from steelyard.sync.import_users import ImportOutcome, ImportRequest

LINES_SHOWN = 20


def import_users(
    file: Annotated[Path, typer.Argument(help="The CSV or JSONL file.")],
    *,
    tenant: TenantName = "default",
    form: Annotated[
        Literal["csv", "jsonl"] | None,
        typer.Option("--format", help="How it is written; by the file's ending if not given."),
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(
            "--currency",
            help="Of new accounts that name none; else that of the tenant's only book.",
        ),
    ] = None,
    on_error: Annotated[
        Literal["keep", "refuse"],
        typer.Option(
            "--on-error", help="If a line cannot be taken: keep the others, or refuse the file."
        ),
    ] = "keep",
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Write every line that cannot be taken here, as JSONL."),
    ] = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Import one file."""
    if not file.is_file():
        raise CommandFailed(f"there is no file {file}; nothing was imported")
    outcome = asyncio.run(
        _import(
            settings_with(data_dir),
            (file, form, rejects),
            (tenant, currency, on_error, is_dry_run),
            is_quiet=wants_json,
        )
    )
    show(
        outcome_as_json(outcome, is_dry_run=is_dry_run),
        wants_json=wants_json,
        as_text=lambda: _print_outcome(outcome, is_dry_run=is_dry_run, rejects=rejects),
    )
    if outcome.refused_count:
        leave(ExitCode.ERROR)


async def _import(
    settings: "Settings",
    place: tuple[Path, str | None, Path | None],
    wanted: tuple[str, str | None, str, bool],
    *,
    is_quiet: bool,
) -> "ImportOutcome":
    from steelyard.access.tenants import get_tenant
    from steelyard.cli.progress import progress_bar
    from steelyard.cli.reach import reach_database
    from steelyard.cli.user_file import (
        count_lines,
        disk_memory,
        format_of,
        reader_of,
        rejects_file,
    )
    from steelyard.runtime.clock import SystemClock
    from steelyard.sync.enrolment_file import Format
    from steelyard.sync.import_users import ImportPorts, import_users

    file, told, rejects = place
    form = format_of(file, None if told is None else Format(told))
    request = _request_of(settings, file.name, wanted)
    if rejects is not None and rejects.resolve() == file.resolve():
        raise CommandFailed("--rejects names the file itself; nothing was imported")
    total = count_lines(file)
    async with reach_database(settings) as database:
        async with database.unit_of_work(request.tenant) as uow:
            await get_tenant(uow)
        with (
            disk_memory() as open_memory,
            rejects_file(rejects) as refuse,
            progress_bar(file.name, hidden=is_quiet) as move,
        ):
            ports = ImportPorts(database, SystemClock(), open_memory, refuse)
            return await import_users(
                ports,
                request,
                reader_of(file, form),
                report=lambda at: move(f"{at.step}, {at.refused:,} refused", at.items, total),
            )


def _request_of(
    settings: "Settings", source: str, wanted: tuple[str, str | None, str, bool]
) -> "ImportRequest":
    from steelyard.core.ids import parse_tenant_id
    from steelyard.runtime.currencies import find_currency
    from steelyard.sync.enroll import enrollment_of
    from steelyard.sync.import_users import ImportRequest, OnError
    from steelyard.sync.open_sync import CORE_BANK

    tenant, currency, on_error, is_dry_run = wanted
    return ImportRequest(
        parse_tenant_id(tenant),
        enrollment_of(settings, CORE_BANK),
        source[:200],
        None if currency is None else find_currency(currency),
        OnError(on_error),
        is_dry_run,
    )


def outcome_as_json(outcome: "ImportOutcome", *, is_dry_run: bool) -> dict[str, object]:
    """Return what an import did as JSON values."""
    from steelyard.sync.import_users import refused_as_json

    return {
        "dry_run": is_dry_run,
        "lines": outcome.items,
        **asdict(outcome.counts),
        "refused_count": outcome.refused_count,
        "refused": [refused_as_json(one) for one in outcome.refused],
    }


def _print_outcome(outcome: "ImportOutcome", *, is_dry_run: bool, rejects: Path | None) -> None:
    counts, word = outcome.counts, "would be " if is_dry_run else ""
    typer.echo(
        f"{outcome.items:,} lines, {outcome.refused_count:,} refused. "
        f"Users: {counts.users_created:,} {word}created, {counts.users_updated:,} {word}updated, "
        f"{counts.users_unchanged:,} unchanged. "
        f"Accounts: {counts.accounts_opened:,} {word}opened, {counts.accounts_updated:,} {word}updated, "
        f"{counts.accounts_unchanged:,} unchanged. "
        f"Synced: {counts.targets_added:,} more, {counts.targets_removed:,} no longer"
    )
    if not outcome.refused:
        return
    rows = [
        (str(one.line), one.user or "", one.field, one.code.value, one.reason)
        for one in outcome.refused[:LINES_SHOWN]
    ]
    print_table(("line", "user", "field", "code", "refused because"), rows)
    if outcome.refused_count > len(rows):
        where = f"{rejects} has them all" if rejects else "--rejects FILE writes them all"
        typer.echo(f"… and {outcome.refused_count - len(rows):,} more; {where}")
