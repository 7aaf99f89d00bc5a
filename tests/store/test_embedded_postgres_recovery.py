"""What the embedded PostgreSQL promises after a crash: of its owner, of itself, of its making."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from steelyard.runtime.embedded import (
    Binaries,
    ServerAddress,
    is_server_running,
    restart_embedded_postgres,
    start_embedded_postgres,
    stop_embedded_postgres,
)
from steelyard.runtime.embedded.errors import PostgresStartFailed
from tests.store.embedded_kit import (
    PROGRAMS,
    copy_of_cluster,
    name_of,
    processes_below,
    query,
    quiet,
    read_ready,
    short_place,
    signal_all,
    start_in_process,
    started,
)


@pytest.fixture
def place() -> Iterator[Path]:
    with short_place() as path:
        yield path


@pytest.fixture(params=PROGRAMS, ids=name_of)
def binaries(request: pytest.FixtureRequest) -> Binaries:
    found: Binaries = request.param
    return found


class Writer(threading.Thread):
    """Commits the numbers 1, 2, 3, … one by one until the server goes away."""

    def __init__(self, address: ServerAddress) -> None:
        super().__init__()
        self._address, self.acknowledged = address, 0
        self.is_writing = threading.Event()

    def run(self) -> None:
        try:
            for number in range(1, 1_000_000):
                self._write(number)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            return

    def _write(self, number: int) -> None:
        batch = f"INSERT INTO written SELECT {number}, n FROM generate_series(1, 200) n"
        query(self._address, batch)
        self.acknowledged = number
        if number >= 5:
            self.is_writing.set()


def test_a_server_outlives_its_killed_owner_and_is_adopted(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    owner = start_in_process(place / "data", binaries)
    pid = read_ready(owner)
    owner.kill()
    owner.communicate(timeout=10)  # ends at once: the server holds none of the owner's pipes
    with started(place / "data", binaries) as server:
        assert server.adopted
        assert server.pid == pid
        assert query(server.address, "SELECT 1") == [(1,)]
    assert not Path(f"/proc/{pid}/cwd").exists()


def test_nothing_acknowledged_is_lost_when_server_and_owner_are_killed_under_load(
    place: Path, binaries: Binaries
) -> None:
    copy_of_cluster(place / "data", binaries)
    server = start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    query(server.address, "CREATE TABLE written (batch integer, n integer)")
    writer = Writer(server.address)
    writer.start()
    assert writer.is_writing.wait(30)
    os.kill(server.pid, signal.SIGKILL)
    writer.join(30)
    again = restart_embedded_postgres(server, report=quiet)
    assert not again.adopted
    assert again.address == server.address
    assert again.pid != server.pid
    [(batches, rows)] = query(again.address, "SELECT count(DISTINCT batch), count(*) FROM written")
    assert batches in (writer.acknowledged, writer.acknowledged + 1)  # the last one: not answered
    assert rows == batches * 200
    assert is_server_running(again)
    assert not is_server_running(server)
    stop_embedded_postgres(again)


def test_a_start_waits_for_the_processes_a_killed_server_left_behind(
    place: Path, binaries: Binaries
) -> None:
    copy_of_cluster(place / "data", binaries)
    server = start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    backends = [pid for pid in processes_below(place) if pid != server.pid]
    backends = signal_all(backends, signal.SIGSTOP)  # they keep the shared memory, hear nothing
    os.kill(server.pid, signal.SIGKILL)
    said: list[str] = []

    def release(message: str) -> None:
        said.append(message)
        signal_all(backends, signal.SIGKILL)

    again = restart_embedded_postgres(server, report=release)
    assert len(said) == 1
    assert "a killed server left behind" in said[0]
    assert backends
    assert all(str(pid) in said[0] for pid in backends)
    assert query(again.address, "SELECT 1") == [(1,)]
    stop_embedded_postgres(again)


def test_processes_left_behind_are_asked_to_end_and_never_waited_for_without_limit(
    place: Path,
) -> None:
    copy_of_cluster(place / "data", PROGRAMS[0])
    server = start_embedded_postgres(place / "data", report=quiet, binaries=PROGRAMS[0])
    backends = [pid for pid in processes_below(place) if pid != server.pid]
    backends = signal_all(backends, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(PostgresStartFailed, match="still holds this folder's shared memory"):
        restart_embedded_postgres(server, report=quiet, deadline_s=5.5)
    assert 5 < time.monotonic() - began < 15
    signal_all(backends, signal.SIGCONT)  # now each acts on what it was sent
    again = restart_embedded_postgres(server, report=quiet, deadline_s=5)
    assert query(again.address, "SELECT 1") == [(1,)]
    stop_embedded_postgres(again)


@pytest.mark.parametrize("kind", ["living", "zombie", "dead", "garbage", "empty", "huge", "own"])
def test_a_stale_pid_file_is_never_believed(place: Path, kind: str) -> None:
    copy_of_cluster(place / "data", PROGRAMS[0])
    server = start_embedded_postgres(place / "data", report=quiet, binaries=PROGRAMS[0])
    pid_file = place / "data" / "postgres" / "postmaster.pid"
    left = pid_file.read_text().splitlines()
    stop_embedded_postgres(server)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if kind == "zombie":
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    elif kind == "dead":
        other.kill()
        other.wait(10)
    number = {"garbage": "no number", "huge": "9" * 30, "own": str(os.getpid())}.get(
        kind, str(other.pid)
    )
    pid_file.write_text("" if kind == "empty" else "\n".join([number, *left[1:]]) + "\n")
    began = time.monotonic()
    try:
        with started(place / "data", PROGRAMS[0]) as again:
            assert not again.adopted
            assert query(again.address, "SELECT 1") == [(1,)]
        assert time.monotonic() - began < 10
        assert other.poll() is None or kind in ("zombie", "dead")
    finally:
        other.kill()
        other.wait(10)


def test_an_interrupted_making_is_done_again(place: Path, binaries: Binaries) -> None:
    owner = start_in_process(place / "data", binaries)
    end = time.monotonic() + 20
    while not list((place / "data").glob("postgres.new-*/PG_VERSION")):
        assert time.monotonic() < end
        time.sleep(0.005)
    owner.kill()
    owner.communicate(timeout=10)
    signal_all(processes_below(place), signal.SIGKILL)
    assert not (place / "data" / "postgres").exists()
    said: list[str] = []
    with started(place / "data", binaries, report=said.append) as server:
        assert query(server.address, "SELECT 1") == [(1,)]
    assert said[0] == "removed a database whose making had been interrupted"
    assert not list((place / "data").glob("postgres.new-*"))
    assert not list((place / "data" / "run").glob(".initdb-*"))


def test_a_server_that_stands_still_is_not_waited_for_without_limit(place: Path) -> None:
    copy_of_cluster(place / "data", PROGRAMS[0])
    owner = start_in_process(place / "data", PROGRAMS[0])
    pid = read_ready(owner)
    owner.kill()
    owner.communicate(timeout=10)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(PostgresStartFailed, match="stood still for 1 s") as caught:
        start_embedded_postgres(place / "data", report=quiet, binaries=PROGRAMS[0], deadline_s=1)
    assert caught.value.code == "postgres_start_failed"
    os.kill(pid, signal.SIGCONT)
    with started(place / "data", PROGRAMS[0]) as server:
        assert (server.adopted, server.pid) == (True, pid)


def test_a_cluster_that_cannot_start_says_why(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    (place / "data" / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(PostgresStartFailed, match=r"pg_control|could not find the database system"):
        start_embedded_postgres(place / "data", report=quiet, binaries=binaries)


def test_a_server_left_on_another_port_moves_to_the_given_one(place: Path) -> None:
    copy_of_cluster(place / "data", PROGRAMS[0])
    owner = start_in_process(place / "data", PROGRAMS[0])
    pid = read_ready(owner)
    owner.kill()
    owner.communicate(timeout=10)
    with started(place / "data", PROGRAMS[0], port=54987) as server:
        assert not server.adopted
        assert server.pid != pid
        assert server.address.port == 54987
