"""What `steelyard verify` prints: the reference's lines and table, data on stdout and talk on stderr."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from steelyard.cli.outcome import say

if TYPE_CHECKING:
    from steelyard.reconcile.anchor import Anchor
    from steelyard.reconcile.model import Discrepancy, Report

COLUMNS = ("User ID", "Stored Balance", "Actual Balance", "Difference", "Account", "")


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of one run."""

    fix: bool = False
    user: str | None = None
    rebuild: bool = False
    incremental: bool = False
    anchor: Path | None = None
    is_anchor_there: bool = False
    dry_run: bool = False


def print_report(report: "Report", asked: Asked, anchor: "Anchor | None") -> None:
    """Print the counts, one line per discrepancy, and what is to be done about those that remain."""
    typer.echo(f"Checked: {report.checked:,} users")
    typer.echo(f"✅ Synced: {report.synced:,} users")
    typer.echo(f"⚠️  Fixed: {report.fixed:,} users")
    if anchor is not None:
        typer.echo(
            f"Anchor: {anchor.accounts:,} accounts, {anchor.taken_at}, sha256 {anchor.digest}"
        )
    if report.details:
        typer.echo("")
        typer.echo("Discrepancies found:")
        for line in table_lines(report):
            typer.echo(line)
    for touched in report.touched:
        what = f", {touched.restored} changes brought back" if touched.restored else ""
        say(f"account {touched.account}: {touched.outcome}{what}")
    if report.errors:
        advice(report, asked)


def advice(report: "Report", asked: Asked) -> None:
    """Say what can be done about what remains."""
    broken = {one.account for one in report.errors if one.fault.is_of_history}
    count = len(report.errors)
    if asked.fix or asked.rebuild:
        verb = "found; nothing was changed (--dry-run)" if asked.dry_run else "remain"
    else:
        verb = "found; `steelyard verify --fix` repairs what can be proved"
    say(f"{count:,} discrepancies {verb}")
    if broken:
        say(
            f"{len(broken):,} accounts have a history that does not prove itself. They are suspended by --fix, never "
            "summed into a balance: see docs/how-to/verify-and-repair.md"
        )


def table_lines(report: "Report") -> list[str]:
    """Return the reference's table: one line per discrepancy, `MISMATCH` on each that remains or was found."""
    from steelyard.reconcile.rules import largest_first

    remaining = set(report.errors)
    rows = [_row(one, is_fixed=one not in remaining) for one in largest_first(report.details)]
    rows += [_row(one, is_fixed=False) for one in report.errors if one not in set(report.details)]
    widths = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    rule = "├─" + "─┼─".join("─" * width for width in widths[:-1]) + "─┤"
    return [_line(COLUMNS, widths), rule, *(_line(row, widths) for row in rows)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return ("│ " + " │ ".join(shown[:-1]) + " │ " + cells[-1]).rstrip()


def _row(one: "Discrepancy", *, is_fixed: bool) -> tuple[str, ...]:
    account = "" if one.account is None else str(one.account)
    whose = one.user or ("book" if one.account is None else "system")
    numbers = (one.stored, one.actual)
    shown = tuple("" if number is None else major(number, one.digits) for number in numbers)
    difference = "" if None in numbers else major(one.difference, one.digits)
    state = " (fixed)" if is_fixed else ""
    return (
        _printable(whose),
        *shown,
        difference,
        account,
        f"MISMATCH {one.fault}{state}: {one.sentence}",
    )


def major(minor: int, digits: int) -> str:
    """Write minor units as major units with thousands separators: 4500050, 2 → `45,000.50`."""
    sign, whole = ("-" if minor < 0 else ""), abs(minor) // 10**digits
    part = f".{abs(minor) % 10**digits:0{digits}}" if digits else ""
    return f"{sign}{whole:,}{part}"


def _printable(text: str) -> str:
    """Return `text` without what could steer a terminal; user ids come from outside."""
    return "".join(one if one.isprintable() else "?" for one in text)


def report_json(report: "Report", anchor: "Anchor | None") -> dict[str, object]:
    """Return the report as JSON values; amounts in minor units."""
    return {
        "tenant": report.tenant,
        "checked": report.checked,
        "synced": report.synced,
        "fixed": report.fixed,
        "accounts": report.accounts,
        "clean": report.is_clean,
        "details": [_discrepancy_json(one) for one in report.details],
        "errors": [_discrepancy_json(one) for one in report.errors],
        "touched": [
            {
                "account": str(one.account),
                "user": one.user,
                "outcome": one.outcome.value,
                "posted_before": one.posted_before,
                "posted": one.posted,
                "restored": one.restored,
            }
            for one in report.touched
        ],
        "anchor": None
        if anchor is None
        else {"accounts": anchor.accounts, "taken_at": anchor.taken_at, "sha256": anchor.digest},
    }


def _discrepancy_json(one: "Discrepancy") -> dict[str, object]:
    return {
        "fault": one.fault.value,
        "account": None if one.account is None else str(one.account),
        "user": one.user,
        "currency": one.currency,
        "stored": one.stored,
        "actual": one.actual,
        "difference": one.difference,
        "seq": one.seq,
        "detail": one.sentence,
    }
