"""Starts the embedded PostgreSQL, or adopts the one that an earlier owner left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.address import ServerAddress
from steelyard.runtime.embedded.binaries import Binaries, copy_binaries, find_binaries
from steelyard.runtime.embedded.cluster import (
    check_major,
    clean_environment,
    fix_sign_in_rules,
    make_cluster,
    sweep_unfinished,
)
from steelyard.runtime.embedded.errors import PortTaken, PostgresStartFailed
from steelyard.runtime.embedded.folder import (
    DataFolder,
    InstanceLock,
    explained,
    load_password,
    make_for,
    open_log,
    prepare_folder,
    read_password,
    take_lock,
)
from steelyard.runtime.embedded.launch_ways import (
    DEFAULT_WAYS,
    LaunchIdentity,
    LaunchWay,
    choose_identity,
    open_folder,
)
from steelyard.runtime.embedded.probe import ask
from steelyard.runtime.embedded.processes import (
    find_server_processes,
    is_postmaster,
    read_pid_file,
    send,
)
from steelyard.runtime.embedded.server import (
    EmbeddedServer,
    Ownership,
    end_postmaster,
)
from steelyard.runtime.embedded.server_settings import (
    DEFAULT_PORT,
    LOOPBACK,
    fits_socket,
    list_flags,
)
from steelyard.runtime.embedded.waiting import (
    Report,
    Waiting,
    address_in,
    find_cause,
    read_log,
    wait_for_answer,
)

FIRST_TCP_PORT = 54320
_PORTS_TRIED_MAX = 200
_ORPHANS_ASKED_TO_END_AFTER_S = 5.0
_ORPHANS_RETRY_S = 0.5


@dataclass(frozen=True)
class _Start:
    """One attempt to have a server, by the holder of the lock."""

    waiting: Waiting
    lock: InstanceLock
    ways: Sequence[LaunchWay]
    port: int | None

    @property
    def folder(self) -> DataFolder:
        return self.waiting.folder

    @property
    def binaries(self) -> Binaries:
        return self.waiting.binaries


def start_embedded_postgres(
    data_dir: Path,
    *,
    report: Report,
    port: int | None = None,
    deadline_s: float = 600,
    binaries: Binaries | None = None,
    ways: Sequence[LaunchWay] = DEFAULT_WAYS,
) -> EmbeddedServer:
    """Start PostgreSQL on a data folder, or adopt the server that already runs there.

    Makes the folder, a superuser with a random password and the database `steelyard` when they are
    missing. The server answers `SELECT 1` when this returns. It outlives this process: the next
    start adopts it. Nothing outside the data folder is written.

    Args:
        data_dir: The data folder.
        report: Gets a sentence for each step that takes time.
        port: Listen on this port of 127.0.0.1. `None` means a Unix socket in the data folder, or,
            where its path would be too long, a free port of 127.0.0.1.
        deadline_s: How long the server may stand still; there is no limit while it gets on.
        binaries: Programs to use; `None` finds them (see `find_binaries`).
        ways: How to run the processes, best first.
    Returns:
        The server; this process holds the folder's lock until it stops the server or ends.
    Raises:
        EmbeddedPostgresError: One of its kinds; the message says what to do.
    Source: docs/decisions, "Embedded PostgreSQL".
    """
    folder = prepare_folder(data_dir)
    lock = take_lock(folder)
    try:
        programs = binaries or find_binaries()
        check_major(folder, programs)
        waiting = Waiting(folder, programs, load_password(folder), report, deadline_s)
        return _have_server(_Start(waiting, lock, ways, port))
    except BaseException:
        lock.release()
        raise


def restart_embedded_postgres(
    server: EmbeddedServer, *, report: Report, deadline_s: float = 600
) -> EmbeddedServer:
    """Start a server that has ended again, at the same address, under the lock already held.

    A server that lives is waited for and returned as adopted.

    Raises:
        EmbeddedPostgresError: As in `start_embedded_postgres`; the lock stays held.
    """
    held = server.ownership
    folder = DataFolder(server.data_dir)
    waiting = Waiting(folder, held.binaries, read_password(folder), report, deadline_s)
    port = None if server.address.is_socket else server.address.port
    again = _have_server(_Start(waiting, held.lock, held.ways, port), held.child)
    if held.child is not None and held.child is not again.ownership.child:
        end_postmaster(held.child.pid, folder, held.child)  # killed, but perhaps not collected yet
    return again


def find_running_postgres(data_dir: Path) -> ServerAddress | None:
    """Return where this folder's server answers, without owning it; `None` when it does not.

    For commands that work beside a running instance.

    Raises:
        EmbeddedPostgresError: No programs to ask with, or the password file cannot be used.
    """
    folder = DataFolder(Path(os.path.abspath(data_dir)))
    claim = read_pid_file(folder)
    if claim is None or not claim.status.startswith("ready"):
        return None
    address = address_in(claim, read_password(folder))
    answer = ask(folder, find_binaries(), address, makes_database=False)
    return address if answer.came else None


def _have_server(start: _Start, child: subprocess.Popen[bytes] | None = None) -> EmbeddedServer:
    return _adopt(start, child) or _launch(start)


def _adopt(start: _Start, child: subprocess.Popen[bytes] | None) -> EmbeddedServer | None:
    """Take over the server that runs on this folder; `None` when there is none (any more)."""
    folder = start.folder
    claim = read_pid_file(folder)
    if claim is None:
        return None
    if not is_postmaster(claim.pid, folder):
        address = address_in(claim, start.waiting.password)
        if ask(folder, start.binaries, address, makes_database=False).came:
            raise PostgresStartFailed(
                step="starting PostgreSQL",
                problem=(
                    f"a server of this folder answers, but its process {claim.pid} cannot be seen "
                    "from here; it may run in another container"
                ),
                log=folder.log,
            )
        return None
    pid = claim.pid
    if start.port is not None and claim.port not in (None, start.port):
        start.waiting.report(f"stopping the server left on port {claim.port}")
        end_postmaster(pid, folder, child)
        return None
    found = wait_for_answer(start.waiting, pid=pid, is_alive=lambda: is_postmaster(pid, folder))
    if found is None:
        return None
    address, answer = found
    start.waiting.report(f"adopted the running PostgreSQL {answer.version} (process {pid})")
    ours = child if child is not None and child.pid == pid else None
    return _as_server(start, address, answer.version, adopted=True, pid=pid, child=ours)


def _launch(start: _Start) -> EmbeddedServer:
    """Start a new server process, after what an earlier one left behind is out of the way."""
    identity, programs = _prepare(start)
    waited_since = time.monotonic()
    port = start.port
    while True:
        _wait_for_orphans(start, waited_since)
        host, listen_port = _choose_place(start, port)
        child, log_from = _spawn(
            start, identity, programs, list_flags(start.folder, host=host, port=listen_port)
        )
        try:
            found = wait_for_answer(
                start.waiting,
                pid=child.pid,
                is_alive=lambda: child.poll() is None,  # noqa: B023
            )
        except BaseException:
            end_postmaster(child.pid, start.folder, child)
            raise
        if found is not None:
            address, answer = found
            if not address.is_socket:
                start.folder.write_record(port=address.port)
            return _as_server(
                start, address, answer.version, adopted=False, pid=child.pid, child=child
            )
        log = read_log(start.folder, since=log_from)
        if "shared memory block" in log and "still in use" in log:
            time.sleep(_ORPHANS_RETRY_S)
            _check_patience(start, waited_since, "a process of an earlier server")
        elif "Address already in use" in log and not host.startswith("/"):
            if start.port is not None:
                raise PortTaken(port=listen_port)
            port = None
            start.folder.write_record(port=listen_port + 1)
        else:
            raise PostgresStartFailed(
                step="starting PostgreSQL", problem=find_cause(log), log=start.folder.log
            )


def _prepare(start: _Start) -> tuple[LaunchIdentity, Binaries]:
    """Get folders, programs and the cluster ready for the user the server will run as."""
    folder, report = start.folder, start.waiting.report
    if sweep_unfinished(folder):
        report("removed a database whose making had been interrupted")
    identity = choose_identity(folder, start.ways)
    with explained(folder):
        open_folder(folder, identity)
        make_for(folder.run, uid=identity.uid, gid=identity.gid)
        for path in folder.run.glob(".s.PGSQL.*"):  # no server lives: the lock is ours
            path.unlink(missing_ok=True)
        if folder.cluster.exists():
            make_for(folder.cluster, uid=identity.uid, gid=identity.gid)
    programs = start.binaries
    if not identity.can_run(str(programs.program("postgres")), "--version"):
        with explained(folder):
            programs = copy_binaries(programs, folder.copies)
    if not folder.cluster.exists():
        report(
            f"making a new database with PostgreSQL {programs.version} as {identity.description}"
        )
        make_cluster(folder, programs, identity, password=start.waiting.password)
    fix_sign_in_rules(folder, identity)
    return identity, programs


def _spawn(
    start: _Start, identity: LaunchIdentity, programs: Binaries, flags: list[str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process in its own session; return it and where its log begins."""
    folder = start.folder
    environment = clean_environment(folder)
    claim = read_pid_file(folder)
    if claim is not None:
        # The number is stale, and may be anybody's by now. PostgreSQL ignores a pid file that names
        # its "grandparent", and still checks the shared memory that the file names.
        environment["PG_GRANDPARENT_PID"] = str(claim.pid)
    with explained(folder):
        if claim is None:
            (folder.cluster / "postmaster.pid").unlink(missing_ok=True)  # garbage, or not there
        log = open_log(folder)
    log_from = os.fstat(log).st_size
    try:
        child = subprocess.Popen(
            identity.command(programs.program("postgres"), "-D", str(folder.cluster), *flags),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder.path,
            env=environment,
            start_new_session=True,
            **identity.process_options(),
        )
    except OSError as error:
        raise PostgresStartFailed(
            step="starting PostgreSQL", problem=str(error), log=folder.log
        ) from error
    finally:
        os.close(log)
    return child, log_from


def _wait_for_orphans(start: _Start, since: float) -> None:
    """Wait until the processes of a killed server are gone; after 5 s ask them to end."""
    asked = told = False
    while orphans := find_server_processes(start.folder):
        names = ", ".join(str(pid) for pid in orphans)
        if not told:
            told = True
            start.waiting.report(
                f"waiting for processes that a killed server left behind ({names})"
            )
        if not asked and time.monotonic() - since > _ORPHANS_ASKED_TO_END_AFTER_S:
            asked = True
            for pid in orphans:
                send(pid, signal.SIGTERM)
        _check_patience(start, since, f"processes of an earlier server ({names})")
        time.sleep(0.02)


def _check_patience(start: _Start, since: float, holders: str) -> None:
    if time.monotonic() - since > start.waiting.deadline_s:
        raise PostgresStartFailed(
            step="starting PostgreSQL",
            problem=f"{holders} still holds this folder's shared memory; end it",
            log=start.folder.log,
        )


def _choose_place(start: _Start, port: int | None) -> tuple[str, int]:
    """Return the socket folder, or the loopback address and a port."""
    if port is not None:
        return LOOPBACK, port
    if fits_socket(start.folder):
        return str(start.folder.run), DEFAULT_PORT
    recorded = start.folder.read_record().get("port")
    first = recorded if isinstance(recorded, int) and 1024 <= recorded < 65000 else FIRST_TCP_PORT
    for candidate in range(first, first + _PORTS_TRIED_MAX):
        if is_port_free(candidate):
            return LOOPBACK, candidate
    raise PortTaken(port=first)


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _as_server(
    start: _Start,
    address: ServerAddress,
    version: str,
    *,
    adopted: bool,
    pid: int,
    child: subprocess.Popen[bytes] | None,
) -> EmbeddedServer:
    return EmbeddedServer(
        address=address,
        data_dir=start.folder.path,
        version=version,
        adopted=adopted,
        pid=pid,
        ownership=Ownership(start.lock, start.binaries, start.ways, child),
    )
