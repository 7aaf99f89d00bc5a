"""`steelyard simulate`: providers to practise on, over real HTTP, with their own true balances."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import CommandFailed, PortTaken, print_json, say
from steelyard.cli.simulate_day import simulate_day

if TYPE_CHECKING:
    import asyncio

    from steelyard.providers.t24.simulator.bank import SimulatedBank

STEER = "Steer a bank that runs"
app = typer.Typer(add_completion=False, help="Run a simulated provider, or a simulated day.")
app.command("day", help="Run a day of a bank's users in virtual time, and judge it.")(simulate_day)


@app.callback()
def simulate() -> None:
    """Run a simulated provider, or a simulated day."""


@app.command(
    "t24", help="Run a simulated core bank until SIGINT or SIGTERM, or steer one that runs."
)
def simulate_t24(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any that is free.")
    ] = 3124,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same bank.")] = 1,
    customers: Annotated[
        int, typer.Option("--customers", min=0, max=100_000, help="Customers in its books.")
    ] = 25,
    currency: Annotated[str, typer.Option("--currency", help="Of its accounts.")] = "GBP",
    latency: Annotated[
        str, typer.Option("--latency", help="How long it thinks: none, quick, busy or closing.")
    ] = "quick",
    requests_per_s: Annotated[
        int | None,
        typer.Option("--requests-per-s", min=1, help="More in any second are answered with 429."),
    ] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, help="More at once are answered with 429.")
    ] = None,
    moves_per_s: Annotated[
        float,
        typer.Option("--moves-per-s", min=0, max=1_000, help="Balances that move by themselves."),
    ] = 1.0,
    maintenance: Annotated[
        str | None,
        typer.Option("--maintenance", help="Closed between two times in UTC, as 23:00-01:00."),
    ] = None,
    key: Annotated[str, typer.Option("--key", help="What callers must show.")] = "simulated-key",
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            help="Address of the bank to steer; that of `up` if not given.",
            rich_help_panel=STEER,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            help="Data folder of the `up` whose demo bank is steered.",
            show_default=False,
            rich_help_panel=STEER,
        ),
    ] = None,
    fault: Annotated[
        str | None,
        typer.Option(
            "--break",
            help="Let requests fail: hang, slow, reset, status_503, rate_limit, … (all in docs/reference/providers.md).",
            rich_help_panel=STEER,
        ),
    ] = None,
    share: Annotated[
        float,
        typer.Option(
            "--share", min=0, max=1, help="Part of the requests that fail.", rich_help_panel=STEER
        ),
    ] = 1.0,
    wait_s: Annotated[
        float | None,
        typer.Option(
            "--wait",
            min=0,
            help="Seconds: of `slow`, of Retry-After, between bytes of `dribble`.",
            rich_help_panel=STEER,
        ),
    ] = None,
    for_s: Annotated[
        float | None,
        typer.Option(
            "--for", min=0.001, help="Seconds until it is well again.", rich_help_panel=STEER
        ),
    ] = None,
    repairs: Annotated[
        bool, typer.Option("--repair", help="End every fault.", rich_help_panel=STEER)
    ] = False,
    entry: Annotated[
        str | None,
        typer.Option(
            "--post",
            metavar="NUMBER=AMOUNT",
            help="Credit an account, or debit it below 0.",
            rich_help_panel=STEER,
        ),
    ] = None,
    wants_truth: Annotated[
        bool,
        typer.Option("--truth", help="Show its true balances.", rich_help_panel=STEER),
    ] = False,
    wants_json: Json = False,
) -> None:
    """Serve a simulated core bank, or steer one."""
    import asyncio

    from steelyard.cli.steer_bank import Steering, steer
    from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
    from steelyard.providers.t24.simulator.faults import LATENCIES
    from steelyard.providers.t24.simulator.maintenance import read_window
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.currencies import find_currency

    steering = Steering(
        fault, share, wait_s, for_s, repairs=repairs, entry=entry, wants_truth=wants_truth
    )
    if steering.is_given:
        steer(at, data_dir, steering, wants_json=wants_json)
        return
    if at is not None or data_dir is not None or for_s is not None or wait_s is not None:
        raise typer.BadParameter(
            "--at, --data-dir, --for and --wait go with --break, --repair, --post or --truth"
        )
    if latency not in LATENCIES:
        raise typer.BadParameter(f"{latency!r} is none of {', '.join(LATENCIES)}")
    options = BankOptions(
        key=key,
        latency=LATENCIES[latency],
        requests_per_s=requests_per_s,
        in_flight=in_flight,
        maintenance=None if maintenance is None else read_window(maintenance),
    )
    bank = SimulatedBank.seeded(
        seed,
        clock=SystemClock(),
        customers=customers,
        currency=find_currency(currency),
        options=options,
    )
    asyncio.run(_serve(bank, host, port, moves_per_s=moves_per_s, wants_json=wants_json))


async def _serve(
    bank: "SimulatedBank", host: str, port: int, *, moves_per_s: float, wants_json: bool
) -> None:
    import asyncio
    import errno
    import signal

    from steelyard.providers.t24.simulator.serve import serve_bank

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    try:
        async with serve_bank(bank, host=host, port=port) as server:
            _tell(bank, server.url, wants_json=wants_json)
            await _move_until(ended, bank, moves_per_s)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise CommandFailed(f"{host} is not an address to listen on here") from error
        raise PortTaken(
            f"port {port} on {host} is taken by another program; nothing was started"
        ) from error


def _tell(bank: "SimulatedBank", url: str, *, wants_json: bool) -> None:
    accounts, key = sorted(bank.books.accounts), bank.options.key
    if wants_json:
        print_json({"url": url, "key": key, "control": f"{url}/_control", "accounts": accounts})
        return
    say(f"a simulated T24 with {len(accounts)} accounts answers at {url}")
    say(f"ask it: T24_API_URL={url} T24_API_KEY={key}")
    say(f"steer it: {url}/_control, see docs/reference/providers.md")


async def _move_until(ended: "asyncio.Event", bank: "SimulatedBank", moves_per_s: float) -> None:
    import asyncio

    gap_s = 1 / moves_per_s if moves_per_s > 0 else None
    while not ended.is_set():
        try:
            await asyncio.wait_for(ended.wait(), gap_s)
        except TimeoutError:
            bank.move_one()
