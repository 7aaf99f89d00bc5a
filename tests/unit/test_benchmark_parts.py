"""The parts of the benchmarks that decide what is told."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from steelyard.cli.bench import rows_of
from steelyard.cli.benchmarks.callers import (
    Keys,
    Picks,
    Sample,
    median_sample,
    ratio,
    run_callers,
    run_rounds,
    sample_of,
)
from steelyard.cli.benchmarks.charges import compare as compare_charges
from steelyard.cli.benchmarks.check_sums import Standing, check_charged
from steelyard.cli.benchmarks.errors import BenchmarkUnsound
from steelyard.cli.benchmarks.http_load import Connection, LoadPlan, Tally, request_maker
from steelyard.cli.benchmarks.over_http import compare as compare_http
from steelyard.cli.benchmarks.proofs import compare as compare_proofs

FAR_FUTURE_S = 1e12


def test_a_sample_tells_rate_median_and_99th_percentile() -> None:
    latencies_s = [n / 1000 for n in range(1, 101)]
    assert sample_of(latencies_s, 2.0) == Sample(50.0, 51.0, 100.0, 100)
    assert sample_of([], 2.0) == Sample(0.0, 0.0, 0.0, 0)


async def test_every_act_of_every_caller_is_counted() -> None:
    acts = 0

    async def act() -> None:
        nonlocal acts
        acts += 1
        await asyncio.sleep(0)

    sample = await run_callers(act, callers=3, seconds=0.02)
    assert sample.done == acts > 3


async def test_a_failing_act_ends_the_measurement() -> None:
    async def act() -> None:
        raise BenchmarkUnsound(side="a", problem="b")

    with pytest.raises(BenchmarkUnsound):
        await run_callers(act, callers=2, seconds=5)


async def test_every_side_is_measured_once_a_round() -> None:
    measured: list[str] = []

    def side(name: str) -> Callable[[], "asyncio.Future[Sample]"]:
        async def measure() -> Sample:
            measured.append(name)
            return Sample(1, 1, 1, 1)

        return lambda: asyncio.ensure_future(measure())

    sides = {name: side(name) for name in "abc"}
    samples = await run_rounds(sides, rounds=4, report=lambda _: None)
    assert {name: len(found) for name, found in samples.items()} == {"a": 4, "b": 4, "c": 4}
    assert [sorted(measured[i : i + 3]) for i in range(0, 12, 3)] == [["a", "b", "c"]] * 4


async def test_a_side_that_did_nothing_voids_the_benchmark() -> None:
    async def idle() -> Sample:
        return Sample(0.0, 0.0, 0.0, 0)

    with pytest.raises(BenchmarkUnsound):
        await run_rounds({"a": idle}, rounds=1, report=lambda _: None)


def test_keys_do_not_repeat_and_picks_stay_within_the_accounts() -> None:
    keys, others = Keys(), Keys()
    made = [keys.next() for _ in range(10_000)] + [others.next()]
    assert len(set(made)) == 10_001
    picks = Picks(range(7, 12))
    assert {picks.next() for _ in range(2_000)} == {7, 8, 9, 10, 11}
    assert Picks([3]).next() == 3


def test_the_sums_hold_only_if_each_acknowledged_charge_is_there_once() -> None:
    before = Standing(charges=10, balance=1000, derived=1000, books=0)
    check_charged("x", before, Standing(13, 994, 994, 0), charged=3, amount=2)
    for after in (
        Standing(12, 994, 994, 0),  # one is lost
        Standing(14, 994, 994, 0),  # one was made twice
        Standing(13, 996, 996, 0),  # money did not move
        Standing(13, 994, 993, 0),  # the balance is not what the changes say
        Standing(13, 994, 994, 1),  # the books do not sum to zero
    ):
        with pytest.raises(BenchmarkUnsound):
            check_charged("x", before, after, charged=3, amount=2)


def _rates(**per_s: float) -> dict[str, list[Sample]]:
    return {name: [Sample(rate, 1.0, 100 / rate, 5)] for name, rate in per_s.items()}


def test_charges_are_compared_with_the_better_pool_of_the_peer() -> None:
    told = compare_charges(
        _rates(steelyard=1000, row_lock_16=50, row_lock_64=100, function=250, batch_of_one=10)
    )
    assert (told["ratio"], told["row_lock"], told["row_lock_pool"]) == (10.0, 100, 64)
    assert (told["function"], told["function_ratio"]) == (250, 4.0)
    assert (told["p99_ms"], told["row_lock_p99_ms"], told["p99_ratio"]) == (0.1, 1.0, 0.1)


def test_http_ratios_are_of_the_sides_they_name() -> None:
    told = compare_http(
        _rates(
            charge=500,
            null_charge=1000,
            read=600,
            null_read=800,
            row_lock_16=100,
            row_lock_64=80,
            null_fastapi=250,
        )
    )
    assert told["charge_ratio_row_lock"] == 5.0
    assert told["null_ratio_fastapi"] == 4.0
    assert told["charge_share_of_null"] == 0.5
    assert told["read_share_of_null"] == 0.75
    assert told["row_lock_pool"] == 16


def test_proofs_are_compared_by_their_median_times() -> None:
    times_s = {
        "sum": [1.0, 9.0, 1.0],
        "command": [6.0] * 3,
        "command_chain": [9.0] * 3,
        "pass_arithmetic": [2.0, 2.0, 8.0],
        "pass_heads": [0.5] * 3,
        "pass_checkpoints": [0.5] * 3,
        "pass_chain": [3.5] * 3,
        "incremental": [0.6] * 3,
        "incremental_tenth": [0.5] * 3,
    }
    timed = {
        name: [Sample(1 / s, s * 1000, s * 1000, 1) for s in of] for name, of in times_s.items()
    }
    told = compare_proofs(timed)
    assert (told["full_ratio_sum"], told["chain_ratio_sum"]) == (2.0, 4.0)
    assert (told["command_ratio_sum"], told["command_chain_ratio_sum"]) == (6.0, 9.0)
    assert (told["incremental_growth"], told["sum_s"]) == (1.2, 1.0)


def test_medians_are_taken_figure_by_figure() -> None:
    samples = [Sample(1, 30, 5, 1), Sample(3, 10, 6, 2), Sample(2, 20, 90, 3)]
    assert median_sample(samples) == Sample(2, 20, 6, 6)
    assert ratio(1, 0) == 0.0


class _Wire(asyncio.Transport):
    """Takes what is written; answers nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True


def test_the_clock_starts_when_it_is_warm_and_every_connection_was_answered() -> None:
    tally = Tally(b"201", warm_until_s=10.0, seconds=5.0, connections=2)
    tally.note(11.0, 0.1)  # warm, but the other connection has had no answer
    tally.note(12.0, 0.2)  # starts the clock
    tally.note(13.0, 0.3)
    tally.note(17.0, 0.4)
    tally.note(17.1, 0.5)  # too late
    assert tally.latencies_s == [0.3, 0.4]
    assert (tally.answered, tally.begins_s, tally.ends_s) == (5, 12.0, 17.0)


async def test_an_answer_in_pieces_is_one_answer_and_the_next_question_waits_for_it() -> None:
    tally, wire = Tally(b"201", FAR_FUTURE_S, 1.0, 1), _Wire()
    connection = Connection(tally, lambda: b"ask")
    connection.connection_made(wire)
    answer = b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello"
    for place in range(len(answer)):
        assert wire.written == [b"ask"]
        connection.data_received(answer[place : place + 1])
    assert wire.written == [b"ask", b"ask"]
    connection.data_received(b"HTTP/1.1 503 Overloaded\r\ncontent-length: 0\r\n\r\n")
    assert (tally.answered, tally.unexpected) == (1, Counter({"503": 1}))
    connection.connection_lost(None)
    assert tally.unexpected["connection lost"] == 1


def test_each_request_has_an_account_and_a_key_of_its_own() -> None:
    plan = LoadPlan(
        port=1,
        method="POST",
        path="/api/accounts/{}/charges",
        token="t",
        first_account=40,
        accounts=1,
        connections=1,
        warm_s=0,
        seconds=1,
        body='{"amount":1}',
    )
    make = request_maker(plan)
    head, _, body = make().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /api/accounts/40/charges HTTP/1.1"
    assert b"content-length: 12" in lines
    assert b"authorization: Bearer t" in lines
    assert body == b'{"amount":1}'
    keys = {make().partition(b"idempotency-key: ")[2].partition(b"\r\n")[0] for _ in range(100)}
    assert len(keys) == 100


def test_a_document_becomes_rows_of_dotted_names() -> None:
    assert rows_of({"a": {"b": 1200, "c": "x"}, "d": 2.5}) == [
        ("a.b", "1,200"),
        ("a.c", "x"),
        ("d", "2.5"),
    ]
