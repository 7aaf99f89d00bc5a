"""`steelyard simulate t24` runs a bank that the client can ask, until it is told to end."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from steelyard.providers.contract import BalanceKind, ProviderContext, Target, TargetAccount
from steelyard.providers.t24.client import open_client
from steelyard.providers.t24.simulator.faults import Fault
from steelyard.runtime.clock import SystemClock
from steelyard.testing.provider_contract import fetch_all
from tests.e2e.cli_kit import COMMAND, Run, command, environment, steelyard
from tests.e2e.providers.bank_kit import GBP, KEY, YEN, Scene, opened, settings_of
from tests.e2e.server_kit import free_port


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


async def steer(scene: Scene, *options: str) -> Run:
    """Steer a scene's bank by the command."""
    assert scene.server is not None
    at = ("--at", scene.server.url, "--json")
    return await asyncio.to_thread(command, "simulate", "t24", *options, *at)


async def test_a_bank_is_broken_and_repaired_by_the_command() -> None:
    async with opened() as scene:
        broken = await steer(scene, "--break", "slow", "--share", "0.5", "--for", "60")
        assert (broken.code, broken.json["fault"], broken.json["for_s"]) == (0, "slow", 60)
        (planned,) = scene.bank.faults.list_current()
        assert (planned.fault, planned.share, planned.wait_s) == (Fault.SLOW, 0.5, 3)
        assert (await steer(scene, "--repair")).code == 0
        assert scene.bank.faults.list_current() == []


async def test_an_entry_is_posted_in_major_units_and_the_truth_is_told() -> None:
    async with opened() as scene:
        before = scene.truth()[YEN.number][BalanceKind.AVAILABLE]
        posted = await steer(scene, "--post", f"{YEN.number}=-40")
        told = {"account": YEN.number, "currency": "JPY", "available": str(before - 40)}
        assert posted.json == told
        truth = (await steer(scene, "--truth")).json
        assert {number: one["balances"] for number, one in truth.items()} == scene.truth()
        assert scene.truth()[YEN.number][BalanceKind.AVAILABLE] == before - 40
        await steer(scene, "--post", f"{YEN.number}=+40")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--break", "sneeze"), "invalid_input"),
        (("--break", "hang", "--wait", "1e9"), "invalid_input"),
        (("--post", f"{YEN.number}=1.5"), "invalid_input"),
        (("--post", f"{YEN.number}"), "invalid_input"),
        (("--post", "1=1"), "invalid_input"),
        (("--repair", "--truth"), "usage"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(
    options: tuple[str, ...], code: str
) -> None:
    async with opened() as scene:
        before = scene.truth()
        refused = await steer(scene, *options)
        assert (refused.code, refused.problem["code"]) == (2, code)
        assert scene.truth() == before
        assert scene.bank.faults.planned == []


def test_where_no_bank_is_to_be_steered_the_command_says_so(tmp_path: Path) -> None:
    gone = command("simulate", "t24", "--at", f"http://127.0.0.1:{free_port()}", "--truth")
    assert (gone.code, "no simulated bank answers" in gone.err) == (1, True)
    beside = command("simulate", "t24", "--repair", "--data-dir", tmp_path)
    assert (beside.code, "no demo bank runs on" in beside.err) == (1, True)
    assert command("simulate", "t24", "--for", "3").code == 2
    assert command("simulate", "t24", "--maintenance", "tonight").code == 2
