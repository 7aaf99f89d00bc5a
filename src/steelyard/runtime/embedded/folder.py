"""The data folder: what lies where, whose it is, its lock, its secret and its small record."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.errors import (
    DataFolderInUse,
    DataFolderUnusable,
    SecretUnsafe,
)

LOG_BYTES_MAX = 8 * 1024 * 1024
SPACE_BYTES_MIN = 128 * 1024 * 1024
_LOG_BYTES_KEPT = 256 * 1024
_REMEDY = "Give it room and write access, or choose another folder with --data-dir"


@dataclass(frozen=True)
class DataFolder:
    """Names every file the embedded database keeps; nothing is written anywhere else."""

    path: Path

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own data directory; it exists only when it is whole."""
        return self.path / "postgres"

    @property
    def run(self) -> Path:
        """Folder of the Unix socket."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        """What PostgreSQL says."""
        return self.path / "postgres.log"

    @property
    def lock(self) -> Path:
        """File whose lock is the instance."""
        return self.path / "instance.lock"

    @property
    def record(self) -> Path:
        """Facts about the folder, no secrets."""
        return self.path / "embedded.json"

    @property
    def secrets(self) -> Path:
        """Folder of secrets, 0700; its files are 0600."""
        return self.path / "secrets"

    @property
    def password(self) -> Path:
        """The superuser's password."""
        return self.secrets / "postgres-root-password"

    @property
    def copies(self) -> Path:
        """Copies of programs, made only when the server's user cannot read the originals."""
        return self.path / "programs"

    def unfinished(self) -> list[Path]:
        """List clusters whose making was interrupted."""
        return list(self.path.glob("postgres.new-*"))

    def is_ours(self) -> bool:
        """Whether this product made the folder, so that its owner group may be changed."""
        return self.read_record().get("made_by_steelyard") is True

    def read_record(self) -> dict[str, object]:
        """Return the record; empty when there is none, or one that cannot be read."""
        try:
            read = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    def write_record(self, **facts: object) -> None:
        """Replace the record by itself plus `facts`, atomically."""
        text = json.dumps(self.read_record() | facts, sort_keys=True) + "\n"
        write_private(self.record, text)


class InstanceLock:
    """The right to run one instance on a data folder, held until `release` or the process ends.

    The file descriptor is close-on-exec: PostgreSQL lives on without it when we are killed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @property
    def is_held(self) -> bool:
        """Whether it has not been released."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the folder free; the second time does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def prepare_folder(data_dir: Path) -> DataFolder:
    """Make the data folder (0700) when it is missing; change nothing about one that exists.

    Raises:
        DataFolderUnusable: It cannot be made, or its path cannot be named to PostgreSQL.
    """
    folder = DataFolder(Path(os.path.abspath(data_dir)))
    if any(character < " " for character in str(folder.path)):
        raise DataFolderUnusable(
            data_dir=folder.path,
            problem="its path contains a control character",
            remedy="Choose another folder with --data-dir",
        )
    with explained(folder):
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.path.mkdir(mode=0o700)
        except FileExistsError:
            return folder
        folder.write_record(made_by_steelyard=True)
    return folder


@contextmanager
def explained(folder: DataFolder) -> Iterator[None]:
    """Turn an `OSError` inside into `DataFolderUnusable` that says what and where."""
    try:
        yield
    except OSError as error:
        said = error.strerror or str(error)
        where = f" ({error.filename})" if error.filename else ""
        raise DataFolderUnusable(
            data_dir=folder.path, problem=f"{said}{where}", remedy=_REMEDY
        ) from error


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest one above it that exists and can be seen."""
    for one in (path, *path.parents):
        try:
            one.stat()
        except OSError:
            continue
        return one
    return Path("/")


def check_space(folder: DataFolder) -> None:
    """Refuse to make a new database on a disk that is about to be full.

    Raises:
        DataFolderUnusable: Less than 128 MiB are free.
    """
    free = shutil.disk_usage(folder.path).free
    if free < SPACE_BYTES_MIN:
        raise DataFolderUnusable(
            data_dir=folder.path,
            problem=(
                f"no space left for a database: {free // 2**20} MiB are free, "
                f"{SPACE_BYTES_MIN // 2**20} MiB are needed"
            ),
            remedy="Free some space on that disk, or choose another folder with --data-dir",
        )


def take_lock(folder: DataFolder) -> InstanceLock:
    """Become the instance of this folder; never waits.

    Raises:
        DataFolderInUse: A living process holds the lock.
        DataFolderUnusable: The lock file cannot be written.
    """
    with explained(folder):
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_to_owner(folder.lock)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataFolderInUse(data_dir=folder.path, owner_pid=read_lock_owner(folder)) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return InstanceLock(descriptor)


def read_lock_owner(folder: DataFolder) -> int | None:
    """Return the process that last wrote its number into the lock file, if it did."""
    try:
        return int(folder.lock.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def is_locked(folder: DataFolder) -> bool:
    """Whether a living process holds the lock; changes nothing."""
    try:
        descriptor = os.open(folder.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def load_password(folder: DataFolder) -> str:
    """Return the superuser's password; make one when there is neither one nor a database.

    Raises:
        SecretUnsafe: The file is missing beside a database, empty, or readable by others.
    """
    with explained(folder):
        if not folder.password.exists() and not folder.cluster.exists():
            if not folder.secrets.exists():
                folder.secrets.mkdir(mode=0o700)
                give_to_owner(folder.secrets)
            write_private(folder.password, secrets.token_urlsafe(32) + "\n")
    return read_password(folder)


def read_password(folder: DataFolder) -> str:
    """Return the superuser's password from its file.

    Raises:
        SecretUnsafe: The file is missing, empty, or readable by others.
    """
    path = folder.password
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise SecretUnsafe(
            path=path,
            problem=f"it cannot be read ({getattr(error, 'strerror', None) or error})",
            remedy="Put it back from a backup of the data folder; the database needs it",
        ) from error
    if mode & 0o077:
        raise SecretUnsafe(
            path=path,
            problem=f"its mode is {mode:04o}, so others can read or change it",
            remedy=f"Run `chmod 600 {path}`, and change the password if others may have read it",
        )
    if not text:
        raise SecretUnsafe(
            path=path,
            problem="it is empty",
            remedy="Put it back from a backup of the data folder; the database needs it",
        )
    return text


def write_private(path: Path, text: str, *, owner: tuple[int, int] | None = None) -> None:
    """Write a 0600 file so that it is there whole or not at all, also after a power cut.

    Args:
        path: Where; its folder exists. A file that is there is replaced.
        text: The content.
        owner: User and group of the file; `None` means those of its folder.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if owner is None:
            give_to_owner(part)
        elif owner[0] != os.geteuid():
            os.chown(part, *owner)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_to_owner(path: Path) -> None:
    """As root in a folder of somebody else: give a new file of ours to the folder's owner."""
    if os.geteuid() == 0:
        of_folder = path.parent.stat()
        if of_folder.st_uid != 0:
            os.chown(path, of_folder.st_uid, of_folder.st_gid, follow_symlinks=False)


def make_for(path: Path, *, uid: int, gid: int) -> None:
    """Make a 0700 folder for the server's user, or hand it over with all it holds."""
    path.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() != 0 or path.lstat().st_uid == uid:
        return
    for below in (*path.rglob("*"), path):  # the folder last: until then the hand-over is repeated
        os.chown(below, uid, gid, follow_symlinks=False)


def open_log(folder: DataFolder) -> int:
    """Open PostgreSQL's log to append to, cut to its last part when it has grown too long.

    Returns:
        A descriptor; the caller closes it.
    """
    descriptor = os.open(folder.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    give_to_owner(folder.log)
    size = os.fstat(descriptor).st_size
    if size > LOG_BYTES_MAX:
        kept = os.pread(descriptor, _LOG_BYTES_KEPT, size - _LOG_BYTES_KEPT)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, kept[kept.find(b"\n") + 1 :])
    return descriptor


def trim_log(data_dir: Path) -> None:
    """Bound the log of a running server: over 8 MiB only its last 256 KiB stay."""
    folder = DataFolder(Path(os.path.abspath(data_dir)))
    with explained(folder):
        os.close(open_log(folder))
