"""`steelyard simulate`: providers to practise on, over real HTTP, with their own true balances."""

from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import CommandFailed, PortTaken, print_json, say

if TYPE_CHECKING:
    import asyncio

    from steelyard.providers.t24.simulator.bank import SimulatedBank

app = typer.Typer(add_completion=False, help="Run a simulated provider.")


@app.callback()
def simulate() -> None:
    """Run a simulated provider."""


@app.command("t24", help="Run a simulated core bank until SIGINT or SIGTERM.")
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
    key: Annotated[str, typer.Option("--key", help="What callers must show.")] = "simulated-key",
    wants_json: Json = False,
) -> None:
    """Serve a simulated core bank."""
    import asyncio

    from steelyard.providers.t24.simulator.bank import BankOptions, SimulatedBank
    from steelyard.providers.t24.simulator.faults import LATENCIES
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.currencies import find_currency

    if latency not in LATENCIES:
        raise typer.BadParameter(f"{latency!r} is none of {', '.join(LATENCIES)}")
    options = BankOptions(
        key=key,
        latency=LATENCIES[latency],
        requests_per_s=requests_per_s,
        in_flight=in_flight,
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
