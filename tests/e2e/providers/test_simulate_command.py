"""`steelyard simulate t24` runs a bank that the client can ask, until it is told to end."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from steelyard.providers.contract import ProviderContext, Target, TargetAccount
from steelyard.providers.t24.client import open_client
from steelyard.runtime.clock import SystemClock
from steelyard.testing.provider_contract import fetch_all
from tests.e2e.cli_kit import COMMAND, command, environment, steelyard
from tests.e2e.providers.bank_kit import GBP, KEY, settings_of


@contextmanager
def simulated(*options: str) -> Iterator[tuple[Any, subprocess.Popen[bytes]]]:
    """A running command and what it printed."""
    arguments = [*COMMAND, "simulate", "t24", "--port", "0", "--key", KEY, "--json", *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment()) as process:
        try:
            assert process.stdout is not None
            yield json.loads(b"".join(iter(process.stdout.readline, b"}\n")) + b"}"), process
        finally:
            process.kill()


async def test_the_client_reads_what_the_bank_holds_and_it_ends_in_order() -> None:
    with simulated("--seed", "7", "--customers", "4", "--moves-per-s", "0") as (told, process):
        target = Target(tuple(TargetAccount(one, GBP) for one in told["accounts"]))
        context = ProviderContext(settings_of(told["url"], "bearer"), SystemClock())
        async with open_client(context) as client, httpx2.AsyncClient() as control:
            read = await fetch_all(client, target)
            truth = (await control.get(f"{told['control']}/accounts")).json()
        assert {
            reading.account.number: balance.money.minor
            for reading in read.readings
            for balance in reading.balances
        } == {number: kinds["available"] for number, kinds in truth.items()}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_balances_move_by_themselves_and_the_port_is_taken_once() -> None:
    with simulated("--moves-per-s", "200") as (told, _):
        async with httpx2.AsyncClient() as control:
            first = (await control.get(f"{told['control']}/accounts")).json()
            async with asyncio.timeout(10):
                while (await control.get(f"{told['control']}/accounts")).json() == first:
                    pass
        port = told["url"].rpartition(":")[2]
        taken = await asyncio.to_thread(steelyard, "simulate", "t24", "--port", port, "--json")
        assert (taken.code, taken.problem["code"]) == (1, "port_taken")


def test_a_word_that_means_nothing_is_a_usage_error() -> None:
    assert command("simulate", "t24", "--latency", "sometimes").code == 2
    assert command("simulate", "t24", "--currency", "NONE").code != 0
