"""Reads the secret of HS256 from a file that another system shares with us."""

import os
import stat
from pathlib import Path
from typing import Final

from steelyard.access.errors import UnsafeSettings

SECRET_BYTES_MIN: Final = 32
_SECRET_BYTES_MAX = 4_096


def read_shared_secret(path: Path) -> bytes:
    """Return the secret in the file, without white space around it.

    Raises:
        UnsafeSettings: It cannot be read, others may read it, or it is shorter than 32 bytes.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(_SECRET_BYTES_MAX).strip()
    except OSError as error:
        raise _unsafe(path, f"it cannot be read: {error.strerror}") from error
    if os.name == "posix" and mode & 0o077:
        raise _unsafe(path, f"its mode is {mode:04o}, so that others can read it; make it 0600")
    return check_secret(secret, str(path))


def check_secret(secret: bytes, source: str) -> bytes:
    """Return a secret that is long enough.

    Raises:
        UnsafeSettings: It is shorter than 32 bytes.
    """
    if len(secret) < SECRET_BYTES_MIN:
        raise UnsafeSettings(
            setting=source, problem=f"a token secret has at least {SECRET_BYTES_MIN} bytes"
        )
    return secret


def _unsafe(path: Path, problem: str) -> UnsafeSettings:
    return UnsafeSettings(setting=f"STEELYARD_JWT_SECRET_FILE {path}", problem=problem)
