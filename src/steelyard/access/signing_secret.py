"""The secret of HS256: made at the first start, kept in the data folder, readable by its owner only."""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from steelyard.access.errors import UnsafeSettings

SECRET_BYTES_MIN: Final = 32
SECRET_FILE: Final = "token-secret"
_SECRET_BYTES_MAX = 4_096


def load_or_make_secret(path: Path) -> bytes:
    """Return the secret in the file, or make one of 256 bits there with mode 0600.

    Two processes that start at once agree on one secret: the first link wins and both read it.

    Raises:
        UnsafeSettings: See `load_secret`; or the folder cannot be written.
    """
    if not path.exists():
        try:
            _make_secret(path)
        except OSError as error:
            raise UnsafeSettings(
                setting=str(path), problem=f"no secret could be made: {error.strerror}"
            ) from error
    return load_secret(path)


def load_secret(path: Path) -> bytes:
    """Return the secret in the file, without white space around it.

    Raises:
        UnsafeSettings: It cannot be read, others may read it, or it is shorter than 32 bytes.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(_SECRET_BYTES_MAX).strip()
    except OSError as error:
        raise UnsafeSettings(
            setting=str(path), problem=f"the secret cannot be read: {error.strerror}"
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise UnsafeSettings(
            setting=str(path),
            problem=f"its mode is {mode:04o}, so that others can read the secret; `chmod 600` it and change the secret",
        )
    if len(secret) < SECRET_BYTES_MIN:
        raise UnsafeSettings(
            setting=str(path), problem=f"a secret has at least {SECRET_BYTES_MIN} bytes"
        )
    return secret


def _make_secret(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_urlsafe(32).encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its secret counts
    finally:
        draft.unlink()
