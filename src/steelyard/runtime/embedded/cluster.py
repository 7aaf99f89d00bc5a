"""Makes a database cluster in one piece, and keeps its version and its sign-in rules in check."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from steelyard.runtime.embedded.address import DATABASE, ROOT_ROLE
from steelyard.runtime.embedded.binaries import Binaries
from steelyard.runtime.embedded.errors import PostgresStartFailed, PostgresVersionMismatch
from steelyard.runtime.embedded.folder import (
    DataFolder,
    check_space,
    explained,
    make_for,
    open_log,
    sync_folder,
    write_private,
)
from steelyard.runtime.embedded.launch_ways import LaunchIdentity
from steelyard.runtime.embedded.server_settings import SIGN_IN_RULES

STEP_DEADLINE_S = 300.0
FIRST_MAJOR_WITH_BUILTIN_LOCALE = 17
FIRST_MAJOR_WITH_SYNC_METHOD = 17


def check_major(folder: DataFolder, binaries: Binaries) -> None:
    """Refuse a cluster of another major version; changes nothing.

    Raises:
        PostgresVersionMismatch: `PG_VERSION` names another major version.
        DataFolderUnusable: It cannot be read.
    """
    with explained(folder):
        major = read_cluster_major(folder)
    if major is not None and major != binaries.major:
        raise PostgresVersionMismatch(
            data_dir=folder.path, folder_major=major, binaries_version=binaries.version
        )


def read_cluster_major(folder: DataFolder) -> str | None:
    """Return the major version that made the cluster; `None` when there is no cluster."""
    try:
        return (folder.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def sweep_unfinished(folder: DataFolder) -> int:
    """Remove what interrupted starts left behind; return how many clusters were half made."""
    unfinished = folder.unfinished()
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.run.glob(".initdb-*"):
        path.unlink(missing_ok=True)
    return len(unfinished)


def make_cluster(
    folder: DataFolder, binaries: Binaries, identity: LaunchIdentity, *, password: str
) -> None:
    """Make a cluster under another name and rename it when it is whole.

    UTF-8, C.UTF-8 order, data checksums, passwords for everyone, and the product's empty database.

    Raises:
        PostgresStartFailed: initdb failed; what it made is removed.
        DataFolderUnusable: There is too little room.
    """
    check_space(folder)
    with explained(folder):
        part = folder.path / f"postgres.new-{secrets.token_hex(4)}"
        make_for(part, uid=identity.uid, gid=identity.gid)
        password_file = folder.run / f".initdb-{secrets.token_hex(4)}"
        write_private(password_file, password + "\n", owner=(identity.uid, identity.gid))
    try:
        initdb, postgres = binaries.program("initdb"), binaries.program("postgres")
        arguments = _arguments(binaries, part, password_file)
        _run(folder, identity, identity.command(initdb, *arguments))
        single = identity.command(postgres, "--single", "-F", "-D", str(part), "postgres")
        _run(folder, identity, single, text=f"CREATE DATABASE {DATABASE}\n")
        _run(folder, identity, identity.command(initdb, *_sync_arguments(binaries, part)))
        with explained(folder):
            part.rename(folder.cluster)
            sync_folder(folder.path)
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(part, ignore_errors=True)


def fix_sign_in_rules(folder: DataFolder, identity: LaunchIdentity) -> None:
    """Put back the sign-in rules when the file differs: a password everywhere."""
    path = folder.cluster / "pg_hba.conf"
    with explained(folder):
        try:
            if path.read_text(encoding="utf-8") == SIGN_IN_RULES:
                return
        except (FileNotFoundError, UnicodeDecodeError):
            pass  # missing or damaged: written anew
        write_private(path, SIGN_IN_RULES, owner=(identity.uid, identity.gid))


def clean_environment(folder: DataFolder) -> dict[str, str]:
    """Return the environment of the server's processes: nothing of ours, no `PG*`."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder.path),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


def _arguments(binaries: Binaries, cluster: Path, password_file: Path) -> list[str]:
    locale = ["--locale=C.UTF-8"]
    if int(binaries.major) >= FIRST_MAJOR_WITH_BUILTIN_LOCALE:  # needs no locale of the system's
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [
        f"--pgdata={cluster}",
        f"--username={ROOT_ROLE}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        *locale,
        "--data-checksums",
        "--no-instructions",
        "--no-sync",  # once, at the end: see `_sync_arguments`
    ]


def _sync_arguments(binaries: Binaries, cluster: Path) -> list[str]:
    """Put the whole cluster on the disk: one call where there is one, else a call a file."""
    method = []
    if int(binaries.major) >= FIRST_MAJOR_WITH_SYNC_METHOD and sys.platform == "linux":
        method = ["--sync-method=syncfs"]
    return ["--sync-only", *method, f"--pgdata={cluster}"]


def _run(
    folder: DataFolder, identity: LaunchIdentity, command: list[str], *, text: str = ""
) -> None:
    """Run one program as the server's user, its words to the log.

    Raises:
        PostgresStartFailed: It failed; the message holds its first words about that.
    """
    with explained(folder):
        log = open_log(folder)
    try:
        done = subprocess.run(
            command,
            input=text,
            stdout=log,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=STEP_DEADLINE_S,
            check=False,
            cwd=folder.path,
            env=clean_environment(folder),
            start_new_session=True,
            **identity.process_options(),
        )
        os.write(log, done.stderr.encode())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PostgresStartFailed(
            step="making the database", problem=str(error), log=folder.log
        ) from error
    finally:
        os.close(log)
    if done.returncode != 0:
        telling = ("error", "fatal", "panic", "could not")
        lines = [
            line
            for line in done.stderr.splitlines()
            if any(word in line.lower() for word in telling)
        ]
        problem = "; ".join(lines[:2]) or f"{command} ended with {done.returncode}"
        raise PostgresStartFailed(step="making the database", problem=problem, log=folder.log)
