"""What the product keeps in its data folder beside the database: secrets and what was loaded.

The embedded database's own files are named by `runtime/embedded/folder.py`; everything here lies
next to them, and secrets share its folder `secrets` (0700, each file 0600).
"""

import json
import os
import secrets
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from steelyard.core.errors import SteelyardError
from steelyard.runtime.embedded.folder import (
    DataFolder,
    explained,
    give_to_owner,
    prepare_folder,
    write_private,
)

SECRET_BYTES = 32
SECRET_CHARACTERS_MIN = 32


class DataFolderMissing(SteelyardError):
    """There is no data folder here, or it has not been started yet."""

    code: ClassVar[str] = "not_found"

    def __init__(self, *, path: Path) -> None:
        self.path = path
        super().__init__(
            f"there is nothing at {path}; run `steelyard up` first, or name the data folder with --data-dir"
        )


class SecretUnusable(SteelyardError):
    """A secret cannot be used as it lies there."""

    code: ClassVar[str] = "secret_unusable"

    def __init__(self, *, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"the secret {path} cannot be used: {problem}. {remedy}")


class Secret(StrEnum):
    """The secrets the product makes at its first start; the value is the file's name."""

    JWT = "token-secret"
    DATABASE_LOGIN = "postgres-app-password"


class DemoState(StrEnum):
    """What became of the demo data in this folder."""

    UNDECIDED = "undecided"
    DECLINED = "declined"
    LOADING = "loading"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class ProductFolder:
    """The data folder as the product sees it; make one with `open_folder` or `find_folder`."""

    folder: DataFolder

    @property
    def path(self) -> Path:
        """The folder itself, absolute."""
        return self.folder.path

    def secret_path(self, secret: Secret) -> Path:
        """Where a secret lies."""
        return self.folder.secrets / secret.value

    @property
    def demo_path(self) -> Path:
        """Where it is noted what became of the demo data."""
        return self.folder.path / "demo.json"


def open_folder(data_dir: Path) -> ProductFolder:
    """Make the data folder (0700) when it is missing.

    Raises:
        DataFolderUnusable: It cannot be made or entered.
    """
    return ProductFolder(prepare_folder(data_dir))


def find_folder(data_dir: Path) -> ProductFolder:
    """Return a data folder that is there; makes nothing.

    Raises:
        DataFolderMissing: Nothing is there.
    """
    path = Path(os.path.abspath(data_dir))
    if not path.is_dir():
        raise DataFolderMissing(path=path)
    return ProductFolder(DataFolder(path))


def make_secret(folder: ProductFolder, secret: Secret) -> str:
    """Return a secret; at the first call make it, 256 random bits, whole or not at all.

    Call it as the owner of the folder's lock, so that two starts never make two.

    Raises:
        SecretUnusable: It is there, but empty, short, or readable by others.
        DataFolderUnusable: It cannot be written.
    """
    path = folder.secret_path(secret)
    with explained(folder.folder):
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
            give_to_owner(path.parent)
        if not path.exists():
            write_private(path, secrets.token_urlsafe(SECRET_BYTES) + "\n")
    return read_secret(folder, secret)


def read_secret(folder: ProductFolder, secret: Secret) -> str:
    """Return a secret that an earlier start made.

    Raises:
        DataFolderMissing: The folder was never started.
        SecretUnusable: It is empty, short, unreadable, or readable by others.
    """
    path = folder.secret_path(secret)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise DataFolderMissing(path=path) from error
    except (OSError, ValueError) as error:
        raise SecretUnusable(
            path=path,
            problem=f"it cannot be read ({getattr(error, 'strerror', None) or error})",
            remedy="Run as the user who owns the data folder, or put the file back from a backup",
        ) from error
    if mode & 0o077:
        raise SecretUnusable(
            path=path,
            problem=f"its mode is {mode:04o}, so others can read or change it",
            remedy=f"Run `chmod 600 {path}`; if others may have read it, delete it and start again, "
            "which ends every token it signed",
        )
    if len(text) < SECRET_CHARACTERS_MIN:
        raise SecretUnusable(
            path=path,
            problem=f"it has {len(text)} characters, fewer than {SECRET_CHARACTERS_MIN}",
            remedy="Delete it and start again, or put it back from a backup",
        )
    return text


def read_demo_state(folder: ProductFolder) -> DemoState:
    """Return what became of the demo data; `UNDECIDED` in a fresh folder or when the note is damaged."""
    try:
        noted = json.loads(folder.demo_path.read_text(encoding="utf-8"))
        return DemoState(noted["state"])
    except (OSError, ValueError, KeyError, TypeError):
        return DemoState.UNDECIDED


def note_demo_state(folder: ProductFolder, state: DemoState) -> None:
    """Note what became of the demo data, whole or not at all."""
    with explained(folder.folder):
        write_private(folder.demo_path, json.dumps({"state": state.value}) + "\n")
