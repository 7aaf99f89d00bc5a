"""Ways to run PostgreSQL's processes: it refuses root, and nobody else's files may be touched."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.runtime.embedded.errors import RootUnsupported
from steelyard.runtime.embedded.folder import DataFolder, explained, nearest_existing

PROBE_DEADLINE_S = 20.0
SERVICE_USERS = ("postgres", "nobody")


@dataclass(frozen=True)
class LaunchIdentity:
    """Who the server's processes are.

    `uid` and `gid` own the cluster's files. `prefix` is put before a command. With `switches`,
    the command is started as another user. With `opens_folder`, that user reaches the data folder
    only after `open_folder`.
    """

    description: str
    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    switches: bool = False
    opens_folder: bool = False

    def command(self, program: Path, *arguments: str) -> list[str]:
        """Return the full command for one program."""
        return [*self.prefix, str(program), *arguments]

    def process_options(self) -> dict[str, Any]:
        """Return the options of `subprocess` that make the process this user's."""
        if not self.switches:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_run(self, *command: str) -> bool:
        """Whether a harmless command succeeds as this user."""
        try:
            done = subprocess.run(
                [*self.prefix, *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_DEADLINE_S,
                check=False,
                cwd="/",
                env={"LC_ALL": "C"},
                **self.process_options(),
            )
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    def can_enter(self, path: Path) -> bool:
        """Whether this user reaches a folder."""
        return self.can_run("/bin/sh", "-c", 'cd -- "$1"', "sh", str(path))


@dataclass(frozen=True)
class Unfit:
    """Why one way is not possible here."""

    reason: str


LaunchWay = Callable[[DataFolder], "LaunchIdentity | Unfit"]


def run_directly(folder: DataFolder) -> LaunchIdentity | Unfit:
    """As the user we are, when that is not root and has a name (initdb wants one)."""
    uid = os.geteuid()
    if uid == 0:
        return Unfit("PostgreSQL refuses to run as root")
    if not _has_name(uid):
        return Unfit(f"user {uid} has no name in the system's user list, and initdb wants one")
    owner = _cluster_owner(folder)
    if owner not in (None, uid):
        return Unfit(f"the database belongs to user {owner}, not to user {uid}")
    return LaunchIdentity(f"user {uid}", uid, os.getegid())


def run_as_cluster_owner(folder: DataFolder) -> LaunchIdentity | Unfit:
    """As root on a database that an ordinary user made: as that user."""
    owner = _cluster_owner(folder)
    if os.geteuid() != 0 or not owner:
        return Unfit("there is no database of another user to continue")
    identity = LaunchIdentity(
        f"user {owner}, who owns the database", owner, folder.cluster.stat().st_gid, switches=True
    )
    if not identity.can_enter(folder.cluster):
        return Unfit(f"user {owner}, who owns the database, cannot reach it")
    return identity


def run_in_user_namespace(folder: DataFolder) -> LaunchIdentity | Unfit:
    """As ourselves under another number: files stay ours, PostgreSQL sees an ordinary user."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return Unfit("the program unshare is not installed")
    inner = next((user.pw_uid for user in _ordinary_users()), None)
    if inner is None:
        return Unfit("the system's user list has no ordinary user to map to")
    owner = _cluster_owner(folder)
    if owner not in (None, os.geteuid()):
        return Unfit(f"the database belongs to user {owner}, not to user {os.geteuid()}")
    identity = LaunchIdentity(
        f"user namespace (user {inner} inside)",
        os.geteuid(),
        os.getegid(),
        prefix=(unshare, "--user", f"--map-user={inner}", "--"),
    )
    if not identity.can_run("/bin/sh", "-c", 'test "$(id -u)" -ne 0'):
        return Unfit("user namespaces are not allowed here")
    if not identity.can_enter(nearest_existing(folder.path)):
        return Unfit(f"{folder.path} cannot be reached from a user namespace")
    return identity


def run_as_service_user(folder: DataFolder) -> LaunchIdentity | Unfit:
    """As an existing service user who can reach the folder, or could once it is opened.

    Only a data folder that this product made is opened; its ancestors, and a folder that somebody
    else made, stay as they are.
    """
    if os.geteuid() != 0:
        return Unfit("only root can start a server as a service user")
    owner = _cluster_owner(folder)
    users = {user.pw_name: user for user in _ordinary_users()}
    for user in (users[name] for name in SERVICE_USERS if name in users):
        if owner not in (None, 0, user.pw_uid):
            continue
        opens = folder.is_ours() or not folder.path.exists()
        identity = LaunchIdentity(
            f"service user {user.pw_name}",
            user.pw_uid,
            user.pw_gid,
            switches=True,
            opens_folder=opens,
        )
        if identity.can_enter(nearest_existing(folder.path.parent if opens else folder.path)):
            return identity
    return Unfit(f"no service user ({', '.join(SERVICE_USERS)}) can reach {folder.path}")


DEFAULT_WAYS: tuple[LaunchWay, ...] = (
    run_directly,
    run_as_cluster_owner,
    run_in_user_namespace,
    run_as_service_user,
)


def choose_identity(folder: DataFolder, ways: Sequence[LaunchWay] = DEFAULT_WAYS) -> LaunchIdentity:
    """Return the first way that works here.

    Raises:
        RootUnsupported: None does; it names the reason for each.
        DataFolderUnusable: The folder cannot even be looked at.
    """
    reasons: list[str] = []
    for way in ways:
        with explained(folder):
            found = way(folder)
        if isinstance(found, LaunchIdentity):
            return found
        reasons.append(found.reason)
    raise RootUnsupported(data_dir=folder.path, reasons=tuple(reasons))


def open_folder(folder: DataFolder, identity: LaunchIdentity) -> None:
    """Let the service user pass through a data folder of ours: its group, mode 0710."""
    if identity.opens_folder:
        os.chown(folder.path, -1, identity.gid)
        folder.path.chmod(0o710)


def _cluster_owner(folder: DataFolder) -> int | None:
    try:
        return folder.cluster.stat().st_uid
    except FileNotFoundError:
        return None


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ordinary_users() -> list[pwd.struct_passwd]:
    """List users other than root, `nobody` first."""
    users = [user for user in pwd.getpwall() if user.pw_uid != 0]
    return sorted(users, key=lambda user: user.pw_name != "nobody")
