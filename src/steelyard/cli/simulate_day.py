"""`steelyard simulate day`: a day of a bank's users in virtual time, on a real database, and what was true at its end."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import ExitCode, leave, print_json, print_table, say

if TYPE_CHECKING:
    from steelyard.testing.simulated_day.evidence import Evidence
    from steelyard.testing.simulated_day.plan import DayPlan
    from steelyard.testing.simulated_day.run_day import Told

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="A superuser's address of a PostgreSQL; a database is made there and dropped. "
        "Without it an embedded server is started in a temporary folder.",
        show_default=False,
    ),
]


def simulate_day(
    *,
    users: Annotated[int, typer.Option("--users", min=1, max=5_000)] = 500,
    hours: Annotated[
        float, typer.Option("--hours", min=0.05, max=24, help="A shorter day has the same events.")
    ] = 24.0,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same day.")] = 1,
    servers: Annotated[int, typer.Option("--servers", min=1, max=8)] = 2,
    is_calm: Annotated[
        bool, typer.Option("--calm", help="The bank never fails and no server is killed.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Write every line of what happens to a file.")
    ] = None,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Run a day; ends with exit code 6 if something at its end is not as promised."""
    from steelyard.runtime.logs import configure_logs
    from steelyard.testing.simulated_day.plan import DayPlan
    from steelyard.testing.simulated_day.promises import judge
    from steelyard.testing.simulated_day.summary import summarise

    configure_logs(form="console", level="error")
    plan = DayPlan(
        users=users,
        hours=hours,
        seed=seed,
        processes=servers,
        has_faults=not is_calm,
        has_accidents=not is_calm,
    )
    began_s = time.monotonic()
    seen = _live(plan, trace, database_url)
    document = summarise(seen, took_s=time.monotonic() - began_s)
    broken = judge(seen)
    if wants_json:
        print_json({**document, "broken": broken})
    else:
        print_table(("what", "count"), [(name, str(told)) for name, told in document.items()])
        say("")
        print_table(
            ("promise", "kept"),
            [(name, _kept(breaches)) for name, breaches in broken.items()],
        )
    if any(broken.values()):
        leave(ExitCode.DISCREPANCIES_REMAIN)


def _kept(breaches: list[str]) -> str:
    return "yes" if not breaches else f"NO, {len(breaches)} times; first: {breaches[0]}"


def _live(plan: "DayPlan", trace: Path | None, database_url: str | None) -> "Evidence":
    from steelyard.testing.simulated_day.run_day import Staging, run_day

    with contextlib.ExitStack() as stack:
        lines = None if trace is None else stack.enter_context(trace.open("w", encoding="utf-8"))
        url = stack.enter_context(_database(database_url))
        say(f"{plan.hours:g} virtual hours of {plan.users} users, seed {plan.seed}")
        began_s = time.monotonic()

        def write(line: str) -> None:
            if lines is not None:
                lines.write(line + "\n")

        def report(told: "Told") -> None:
            hour, took_s = told.virtual_s / 3600, time.monotonic() - began_s
            say(
                f"  {hour:5.1f} h  {told.syncs:>8} syncs  {told.logins:>6} logins  "
                f"{told.changes:>7} changes  {took_s:6.1f} s"
            )

        return run_day(plan, Staging(url, write=write, report=report))


@contextmanager
def _database(database_url: str | None) -> Iterator[str]:
    """Give a migrated database of its own, as the product logs in; gone at the end."""
    from steelyard.cli.benchmarks.place import open_place

    # Opened and closed on a loop of real time; between them the day has the thread to itself.
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        opening = stack.enter_async_context(open_place(database_url, report=say))
        place = runner.run(opening)
        try:
            yield runner.run(place.make_database()).app_url
        finally:
            runner.run(stack.aclose())
