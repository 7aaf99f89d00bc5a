"""`steelyard bench`: measures the product beside its peers, in one run, on databases of its own."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import print_json, print_table, say

app = typer.Typer(
    help="Measure the product beside its peers. Needs nothing that runs and touches no data of yours.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def bench() -> None:
    """Measure the product beside its peers. Its logs go to stderr, from warnings on."""
    from steelyard.runtime.logs import configure_logs

    configure_logs(form="console", level="warning")


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="A superuser's address of a PostgreSQL to measure on; databases are made there and dropped. "
        "Without it an embedded server is started in a temporary folder.",
        show_default=False,
    ),
]
Accounts = Annotated[int, typer.Option("--accounts", min=1, max=5_000_000)]
History = Annotated[
    int, typer.Option("--history", min=0, help="Changes there are before, over all accounts.")
]
Rounds = Annotated[int, typer.Option("--rounds", min=1, help="Rounds; figures are medians.")]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.1, max=600, help="Length of each measurement.")
]


@app.command(help="Charges in one process, against a row lock written with SQLAlchemy.")
def charges(
    *,
    seconds: Seconds = 3.0,
    rounds: Rounds = 5,
    callers: Annotated[int, typer.Option("--callers", min=1, max=5_000)] = 64,
    accounts: Accounts = 100_000,
    history: History = 500_000,
    hot_changes: Annotated[
        int, typer.Option("--hot-changes", min=0, help="Changes the hot account has before.")
    ] = 500_000,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Measure charges."""
    from steelyard.cli.benchmarks.charges import ChargesPlan, measure_charges

    plan = ChargesPlan(seconds, rounds, callers, accounts, history, hot_changes)
    _run(measure_charges(plan, database_url=database_url, report=say), wants_json=wants_json)


@app.command(help="Charges and balance reads over HTTP, against FastAPI with the same row lock.")
def http(
    *,
    seconds: Seconds = 3.0,
    rounds: Rounds = 5,
    connections: Annotated[int, typer.Option("--connections", min=1, max=5_000)] = 64,
    accounts: Accounts = 100_000,
    history: History = 500_000,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Measure the HTTP API."""
    from steelyard.cli.benchmarks.over_http import HttpPlan, measure_http

    plan = HttpPlan(seconds, rounds, connections, accounts, history)
    _run(measure_http(plan, database_url=database_url, report=say), wants_json=wants_json)


@app.command(help="Proofs of every balance, against a plain SUM … GROUP BY.")
def verify(
    *,
    postings: Annotated[
        int, typer.Option("--postings", min=100, help="Changes to prove; accounts are a tenth.")
    ] = 1_000_000,
    rounds: Rounds = 3,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Measure proofs."""
    from steelyard.cli.benchmarks.proofs import VerifyPlan, measure_verify

    plan = VerifyPlan(postings, rounds)
    _run(measure_verify(plan, database_url=database_url, report=say), wants_json=wants_json)


@app.command(help="From commit to a thousand screens, against a bare python-socketio.")
def push(
    *,
    seconds: Seconds = 10.0,
    rounds: Rounds = 3,
    sockets: Annotated[int, typer.Option("--sockets", min=1, max=5_000)] = 1_000,
    per_s: Annotated[int, typer.Option("--per-s", min=1, help="Changes a second.")] = 1_000,
    burst: Annotated[
        int, typer.Option("--burst", min=1, help="Changes committed as fast as they can be.")
    ] = 20_000,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Measure the push gateway."""
    from steelyard.cli.benchmarks.push import PushPlan, measure_push

    plan = PushPlan(seconds, rounds, sockets, per_s, burst)
    _run(measure_push(plan, database_url=database_url, report=say), wants_json=wants_json)


@app.command(
    help="Leases in batches against single rows, logins beside a backlog, a shared budget."
)
def sync(
    *,
    seconds: Seconds = 3.0,
    rounds: Rounds = 5,
    targets: Annotated[
        int, typer.Option("--targets", min=1_000, max=5_000_000, help="Targets that are due.")
    ] = 1_000_000,
    logins_per_s: Annotated[float, typer.Option("--logins-per-s", min=1, max=1_000)] = 50.0,
    requests_per_s: Annotated[
        float, typer.Option("--requests-per-s", min=1, max=1_000, help="Of the shared budget.")
    ] = 100.0,
    budget_seconds: Annotated[
        float, typer.Option("--budget-seconds", min=0.5, max=600, help="How long it is used up.")
    ] = 20.0,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes that share the budget.")
    ] = 4,
    database_url: DatabaseUrl = None,
    wants_json: Json = False,
) -> None:
    """Measure the sync engine."""
    from steelyard.cli.benchmarks.sync import SyncPlan, measure_sync
    from steelyard.cli.benchmarks.sync_budget import BudgetPlan

    budget = BudgetPlan(budget_seconds, requests_per_s, workers=workers)
    plan = SyncPlan(seconds, rounds, targets, logins_per_s, budget)
    _run(measure_sync(plan, database_url=database_url, report=say), wants_json=wants_json)


def _run(work: Coroutine[Any, Any, dict[str, object]], *, wants_json: bool) -> None:
    from steelyard.cli.serving import run_in_loop

    document = run_in_loop(work, wants_uvloop=True)
    if wants_json:
        print_json(document)
    else:
        print_table(("figure", "value"), rows_of(document))


def rows_of(document: dict[str, object], above: str = "") -> list[tuple[str, str]]:
    """Return a document as rows of dotted names and values."""
    rows: list[tuple[str, str]] = []
    for name, value in document.items():
        full = f"{above}{name}"
        if isinstance(value, dict):
            rows.extend(rows_of(value, f"{full}."))
        else:
            rows.append((full, f"{value:,}" if isinstance(value, int) else str(value)))
    return rows
