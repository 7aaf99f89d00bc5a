"""A running embedded server as its owner holds it, and how it is stopped."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steelyard.runtime.embedded.address import ServerAddress
from steelyard.runtime.embedded.binaries import Binaries
from steelyard.runtime.embedded.folder import DataFolder, InstanceLock
from steelyard.runtime.embedded.launch_ways import LaunchWay
from steelyard.runtime.embedded.processes import is_postmaster, send, wait_until_ended

FAST_DEADLINE_S = 30.0
IMMEDIATE_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Ownership:
    """What the owner needs to start the server again or to end it."""

    lock: InstanceLock
    binaries: Binaries
    ways: Sequence[LaunchWay]
    child: subprocess.Popen[bytes] | None


@dataclass(frozen=True)
class EmbeddedServer:
    """A server that answered `SELECT 1`, owned by this process until it is stopped.

    `address` signs in as the superuser. `adopted` tells that an earlier owner had started it.
    """

    address: ServerAddress
    data_dir: Path
    version: str
    adopted: bool
    pid: int
    ownership: Ownership = field(repr=False, compare=False)


def is_server_running(server: EmbeddedServer) -> bool:
    """Whether the server's main process lives; it says nothing about whether it answers."""
    child = server.ownership.child
    if child is not None:
        return child.poll() is None
    return is_postmaster(server.pid, DataFolder(server.data_dir))


def stop_embedded_postgres(server: EmbeddedServer) -> None:
    """Stop the server, fast first and then harder, and give the data folder free.

    Open transactions are rolled back; committed ones stay, however hard the stop was. Stopping a
    server that has ended, or stopping twice, is no error.
    """
    if not server.ownership.lock.is_held:
        return
    try:
        end_postmaster(server.pid, DataFolder(server.data_dir), server.ownership.child)
    finally:
        server.ownership.lock.release()


def end_postmaster(pid: int, folder: DataFolder, child: subprocess.Popen[bytes] | None) -> None:
    """End one postmaster: fast, after 30 s at once, after 10 s more by force."""
    for number, deadline_s in (
        (signal.SIGINT, FAST_DEADLINE_S),
        (signal.SIGQUIT, IMMEDIATE_DEADLINE_S),
        (signal.SIGKILL, IMMEDIATE_DEADLINE_S),
    ):
        if child is None:
            if not is_postmaster(pid, folder):
                return
            send(pid, number)
            if wait_until_ended(pid, folder, deadline_s=deadline_s):
                return
            continue
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            continue
        return
