"""`steelyard import`: loads a file of purchases, each line once however often it is run; or one of users."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from steelyard.cli.import_users import import_users
from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import CommandFailed, ExitCode, leave, print_table, show

if TYPE_CHECKING:
    from steelyard.ledger.import_purchases import ImportOutcome
    from steelyard.runtime.settings import Settings

PURCHASES = "purchases"
LINES_SHOWN = 50


class ImportCommands(TyperGroup):
    """Commands by what the file holds; a file alone is one of purchases."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `purchases` before arguments that name no command."""
        is_named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if is_named or not args else [PURCHASES, *args])


app = typer.Typer(
    add_completion=False, cls=ImportCommands, help="Load a file.", no_args_is_help=True
)


@app.callback()
def import_() -> None:
    """Load a file of purchases or of users."""


app.command(
    name="users",
    help="Bring users and their accounts at the core bank to what a CSV or JSONL file says of them.",
)(import_users)


@app.command(
    name=PURCHASES,
    help="Load a CSV of purchases (date,card,merchant,amount_gbp). Running it again adds nothing twice.",
)
def import_file(
    file: Annotated[Path, typer.Argument(help="The CSV file.")],
    *,
    tenant: TenantName = "default",
    source: Annotated[
        str | None,
        typer.Option("--source", help="Name of the export; the file's name if not given."),
    ] = None,
    tops_up: Annotated[
        bool, typer.Option("--topup", help="First give each card what its purchases need.")
    ] = False,
    is_strict: Annotated[
        bool, typer.Option("--strict", help="Write nothing at all if one line cannot be taken.")
    ] = False,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Import one file."""
    if not file.is_file():
        raise CommandFailed(f"there is no file {file}; nothing was imported")
    settings = settings_with(data_dir)
    outcome = asyncio.run(
        _import(
            settings,
            file,
            tenant=tenant,
            source=source or file.name,
            tops_up=tops_up,
            is_strict=is_strict,
            is_quiet=wants_json,
        )
    )
    show(
        outcome_as_json(outcome),
        wants_json=wants_json,
        as_text=lambda: _print_outcome(outcome),
    )
    if outcome.refused_count:
        leave(ExitCode.ERROR)


async def _import(
    settings: "Settings",
    file: Path,
    *,
    tenant: str,
    source: str,
    tops_up: bool,
    is_strict: bool,
    is_quiet: bool,
) -> "ImportOutcome":
    from steelyard.access.store import find_tenant
    from steelyard.cli.import_ports import open_import_ports
    from steelyard.cli.progress import progress_bar
    from steelyard.cli.purchase_file import reader_of
    from steelyard.cli.reach import reach_url
    from steelyard.core.errors import NotFound
    from steelyard.core.ids import parse_tenant_id
    from steelyard.ledger.import_purchases import ImportRequest, import_purchases
    from steelyard.ledger.purchases import CURRENCY_CODE, check_source
    from steelyard.runtime.currencies import find_currency

    currency, tenant_id = find_currency(CURRENCY_CODE), parse_tenant_id(tenant)
    request = ImportRequest(
        tenant_id, check_source(source), currency, tops_up=tops_up, is_strict=is_strict
    )
    async with reach_url(settings) as url, open_import_ports(url) as ports:
        async with ports.database.unit_of_work(tenant_id) as uow:
            if await find_tenant(uow) is None:
                raise NotFound(kind="tenant", identifier=tenant)
        with progress_bar(file.name, hidden=is_quiet) as move:
            return await import_purchases(
                ports,
                request,
                reader_of(file, source, currency),
                report=lambda progress: move(progress.step, progress.done, progress.total),
            )


def outcome_as_json(outcome: "ImportOutcome") -> dict[str, object]:
    """Return what an import did as JSON values; amounts in minor units."""
    return {
        "lines": outcome.lines,
        "cards": outcome.cards,
        "accounts_opened": outcome.accounts_opened,
        "topped_up": outcome.topped_up,
        "topped_up_minor": outcome.topped_up_minor,
        "charges": outcome.charges,
        "refunds": outcome.refunds,
        "already_there": outcome.already_there,
        "refused_count": outcome.refused_count,
        "refused": [
            {"line": one.line, "field": one.field, "reason": one.reason} for one in outcome.refused
        ],
    }


def _print_outcome(outcome: "ImportOutcome") -> None:
    typer.echo(
        f"{outcome.lines:,} lines of {outcome.cards:,} cards: {outcome.charges:,} charges and "
        f"{outcome.refunds:,} refunds posted, {outcome.already_there:,} were there already, "
        f"{outcome.refused_count:,} refused; {outcome.accounts_opened:,} accounts opened, "
        f"{outcome.topped_up:,} topped up"
    )
    if outcome.refused:
        rows = [(str(one.line), one.field, one.reason) for one in outcome.refused[:LINES_SHOWN]]
        print_table(("line", "field", "refused because"), rows)
        if outcome.refused_count > len(rows):
            typer.echo(
                f"… and {outcome.refused_count - len(rows):,} more; --json lists up to 1,000"
            )
