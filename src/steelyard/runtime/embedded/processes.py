"""Looks at processes: which one is the server of a folder, and what it says about itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.folder import DataFolder

_PROC = Path("/proc/self/stat")
_PS_DEADLINE_S = 10.0


@dataclass(frozen=True)
class PidFile:
    """What `postmaster.pid` claims; it is a hint, never a proof."""

    pid: int
    port: int | None
    socket_dir: str
    listens_on: str
    status: str


def read_pid_file(folder: DataFolder) -> PidFile | None:
    """Return the claims of `postmaster.pid`; `None` when it is missing or garbage."""
    try:
        text = (folder.cluster / "postmaster.pid").read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines()]
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not 0 < pid < 2**31:
        return None
    lines += [""] * 8
    port = int(lines[3]) if lines[3].isdecimal() else None
    return PidFile(pid, port, socket_dir=lines[4], listens_on=lines[5], status=lines[7])


def is_postmaster(pid: int, folder: DataFolder) -> bool:
    """Whether `pid` is a live (not ended, not zombie) postgres started on this folder's cluster."""
    state, arguments = _look_at(pid)
    if state in ("", "Z", "X") or "-D" not in arguments[1:-1]:
        return False
    cluster = arguments[arguments.index("-D") + 1]
    is_postgres = Path(arguments[0]).name.startswith("postgres")
    return is_postgres and os.path.realpath(cluster) == os.path.realpath(folder.cluster)


def find_server_processes(folder: DataFolder) -> list[int]:
    """List processes that work in this folder's cluster, as far as this user may see them.

    Linux only: without `/proc` the list is empty.
    """
    found: list[int] = []
    if not _PROC.exists():
        return found
    cluster = Path(os.path.realpath(folder.cluster))
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            works_there = Path(f"/proc/{entry.name}/cwd").readlink() == cluster
            command = Path(f"/proc/{entry.name}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue  # ended meanwhile, or another user's
        if works_there and command.startswith("postgres") and _look_at(int(entry.name))[0] != "Z":
            found.append(int(entry.name))
    return sorted(found)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def reap(pid: int) -> bool:
    """Collect `pid` if it is an ended child of ours; return whether it was."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def wait_until_ended(pid: int, folder: DataFolder, *, deadline_s: float) -> bool:
    """Wait until the postmaster `pid` is gone; return whether it is."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if reap(pid) or not is_postmaster(pid, folder):
            return True
        time.sleep(0.01)
    return False


def _look_at(pid: int) -> tuple[str, list[str]]:
    """Return a process's state letter and arguments; empty when there is no such process."""
    try:
        if _PROC.exists():
            stat_line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            raw = Path(f"/proc/{pid}/cmdline").read_bytes()
            state = stat_line.rpartition(")")[2].split()[0]
            return state, [os.fsdecode(part) for part in raw.split(b"\0") if part]
        done = subprocess.run(
            ["/bin/ps", "-ww", "-o", "state=,command=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PS_DEADLINE_S,
        )
    except (OSError, subprocess.SubprocessError, IndexError):
        return "", []
    state, _, command = done.stdout.strip().partition(" ")
    program, _, rest = command.strip().partition(" -D ")
    cluster = rest.partition(" -c ")[0]
    return state[:1], [program, "-D", cluster] if program else []
