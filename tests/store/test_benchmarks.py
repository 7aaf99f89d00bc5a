"""Each benchmark runs from the command line, tells one document, keeps its sums and leaves nothing behind."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from steelyard.cli.benchmarks.row_lock import FUNCTION, TABLES, PeerRefused, RowLock, open_engine
from steelyard.runtime.database import connect
from tests.world import FreshDatabase, with_database

SPEED = ("steelyard", "row_lock", "ratio", "p50_ms", "p99_ms", "row_lock_p99_ms", "function")


def run_bench(*words: str) -> dict[str, Any]:
    """Run `steelyard bench … --json` and return its document."""
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "steelyard", "bench", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    document: dict[str, Any] = json.loads(ended.stdout)
    return document


async def leftovers(admin_url: str) -> list[str]:
    """Databases and roles that a benchmark made and did not take away."""
    connection = await connect(admin_url)
    try:
        rows = await connection.fetch(
            "SELECT datname::text AS name FROM pg_database WHERE datname LIKE 'steelyard_bench_%' "
            "UNION ALL SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'steelyard_bench_%'"
        )
    finally:
        await connection.close()
    return [row["name"] for row in rows]


async def test_charges_are_measured_on_an_embedded_server_and_all_accounted_for() -> None:
    told = await asyncio.to_thread(
        run_bench,
        "charges",
        *("--seconds", "0.2", "--rounds", "1", "--callers", "8"),
        *("--accounts", "50", "--history", "100", "--hot-changes", "1500"),
    )
    assert told["bench"] == "charges"
    for load in ("uniform", "hot"):
        assert all(told[load][name] > 0 for name in SPEED)
        assert told[load]["row_lock_pool"] in (16, 64)
    # The command itself compares these with the tables and fails where they differ.
    assert told["charged"]["steelyard"] > 0
    assert told["charged"]["peers"] > 0
    assert told["machine"]["fsync"] == told["machine"]["synchronous_commit"] == "on"


async def test_http_is_measured_and_all_charges_accounted_for(admin_url: str) -> None:
    told = await asyncio.to_thread(
        run_bench,
        "http",
        *("--seconds", "0.5", "--rounds", "1", "--connections", "8"),
        *("--accounts", "50", "--history", "100", "--database-url", admin_url),
    )
    assert told["bench"] == "http"
    ratios = (
        "charge_ratio_row_lock",
        "null_ratio_fastapi",
        "charge_share_of_null",
        "read_share_of_null",
    )
    assert all(isinstance(told[name], float) for name in ratios)
    for name in ("charge", "null_charge", "read", "null_read", "null_fastapi"):
        assert told[name]["per_s"] > 0
        assert told[name]["p50_ms"] <= told[name]["p99_ms"]
    assert told["charged"]["steelyard"] > 0
    assert told["charged"]["peers"] > 0
    assert await leftovers(admin_url) == []


async def test_proofs_are_measured_on_histories_that_they_find_clean(admin_url: str) -> None:
    told = await asyncio.to_thread(
        run_bench, "verify", "--postings", "2000", "--rounds", "1", "--database-url", admin_url
    )
    assert told["bench"] == "verify"
    assert told["accounts"] == 200
    for name in ("full_ratio_sum", "chain_ratio_sum", "incremental_growth", "sum_s", "command_s"):
        assert told[name] > 0
    assert await leftovers(admin_url) == []


@pytest.mark.slow
async def test_push_is_measured_and_every_change_arrives(admin_url: str) -> None:
    options = {
        "--seconds": "0.5", "--rounds": "1", "--sockets": "20", "--per-s": "40", "--burst": "60",
        "--database-url": admin_url,
    }  # fmt: skip
    told = await asyncio.to_thread(
        run_bench, "push", *(word for pair in options.items() for word in pair)
    )
    assert told["bench"] == "push"
    for side in ("steelyard", "socketio"):
        assert told[side]["lost"] == 0
        assert told[side]["burst_delivered"] >= 60
        assert told[side]["cpu_us"] > 0
        assert 0 < told[side]["p50_ms"] <= told[side]["p99_ms"]
    assert (told["lost"], told["reordered"]) == (0, 0)


@pytest.mark.slow
async def test_syncs_are_measured_and_no_budget_is_exceeded(admin_url: str) -> None:
    options = {
        "--seconds": "0.1", "--rounds": "1", "--targets": "8000", "--budget-seconds": "0.5",
        "--workers": "2", "--database-url": admin_url,
    }  # fmt: skip
    told = await asyncio.to_thread(
        run_bench, "sync", *(word for pair in options.items() for word in pair)
    )
    assert told["bench"] == "sync"
    for name in ("steelyard", "full_batches", "single_4", "single_16", "single_call"):
        assert told["targets_per_s"][name] > 0
    assert told["login_lease_ratio"] > 0
    assert all(told["login_lease"][side]["done"] == 5 for side in ("many_due", "few_due"))
    assert told["budget_exceeded"] == 0
    assert told["budget"]["arrivals"] == told["budget"]["grants"] > 0
    assert told["budget"]["in_flight_max_of_one_user"] == 1
    assert await leftovers(admin_url) == []


@pytest.mark.parametrize("as_superuser", [True, False])
async def test_a_server_that_cannot_be_used_is_told_in_a_sentence(
    fresh: FreshDatabase, as_superuser: bool
) -> None:
    url = with_database(fresh.admin_url, "no_such_database") if as_superuser else fresh.app_url
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "steelyard", "bench", "verify", "--database-url", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.endswith("nothing was measured [command_failed]\n")


@pytest_asyncio.fixture
async def peer(fresh: FreshDatabase) -> AsyncIterator[RowLock]:
    """The peer on tables of its own: account 1 with 100 minor units."""
    connection = await connect(fresh.admin_url)
    await connection.execute(TABLES + FUNCTION + "INSERT INTO peer.account VALUES (1, 100, 0)")
    await connection.close()
    engine = open_engine(fresh.admin_url, pool_size=4)
    yield RowLock(engine)
    await engine.dispose()


async def test_the_peer_never_overdraws_and_answers_a_key_once(
    peer: RowLock, fresh: FreshDatabase
) -> None:
    answers = await asyncio.gather(
        *(peer.charge(1, 30, f"k{n}") for n in range(8)), return_exceptions=True
    )
    refused = [one for one in answers if isinstance(one, PeerRefused)]
    assert [one.reason for one in refused] == ["insufficient_funds"] * 5
    accepted = next(n for n, one in enumerate(answers) if not isinstance(one, PeerRefused))
    again = await peer.charge(1, 30, f"k{accepted}")
    assert again.replayed
    assert again.seq == answers[accepted].seq  # type: ignore[union-attr]
    with pytest.raises(PeerRefused, match="idempotency_conflict"):
        await peer.charge(1, 31, f"k{accepted}")
    connection = await connect(fresh.admin_url)
    row = await connection.fetchrow(
        "SELECT balance, seq, (SELECT count(*) FROM peer.change) AS changes FROM peer.account"
    )
    await connection.close()
    assert row is not None
    assert tuple(row) == (10, 3, 3)
