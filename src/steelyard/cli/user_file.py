"""A file of users as items, in little memory however large it is; and a file of what could not be taken."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from steelyard.cli.outcome import CommandFailed
from steelyard.cli.purchase_file import read_line
from steelyard.sync.enrolment import RefusedItem
from steelyard.sync.enrolment_file import LINE_BYTES_MAX, Format, Item, read_users
from steelyard.sync.import_users import ReadItems, refused_as_json

_CACHE_KIB = 32_768
NEWEST_MAX = 200_000
_BY_ENDING = {
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}


def format_of(path: Path, told: Format | None) -> Format:
    """Return how a file is written: as told, else by its ending.

    Raises:
        CommandFailed: Neither says it.
    """
    if told is not None:
        return told
    found = _BY_ENDING.get(path.suffix.lower())
    if found is None:
        compressed = path.suffix.lower() in (".gz", ".zip", ".zst", ".bz2", ".xz")
        hint = "unpack it first" if compressed else "say --format csv or --format jsonl"
        raise CommandFailed(
            f"{path.name} does not end in .csv, .jsonl or .ndjson: {hint}; nothing was imported"
        )
    return found


def reader_of(path: Path, form: Format) -> ReadItems:
    """Return what reads the file from its first line each time it is called."""

    def read() -> Iterator[Item]:
        with path.open("rb") as file:
            yield from read_users(iter(lambda: read_line(file.readline, LINE_BYTES_MAX), b""), form)

    return read


def count_lines(path: Path) -> int:
    """Return how many lines there are, for progress."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


class DiskMemory:
    """Words by keys: the newest in memory, the others in a private temporary database, which goes to disk."""

    def __init__(self, database: sqlite3.Connection, newest_max: int = NEWEST_MAX) -> None:
        self._database, self._newest_max = database, newest_max
        self._newest: dict[str, str] = {}
        self._has_older = False
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("DROP TABLE IF EXISTS kept")
        database.execute(
            "CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
        )

    def get(self, key: str) -> str | None:
        """Return what is kept under the key."""
        found = self._newest.get(key)
        if found is None and self._has_older:
            row = self._database.execute("SELECT value FROM kept WHERE name = ?", (key,)).fetchone()
            return None if row is None else str(row[0])
        return found

    def put(self, key: str, value: str) -> None:
        """Keep a value instead of an earlier one."""
        self._newest[key] = value
        if len(self._newest) >= self._newest_max:
            self._database.executemany(
                "INSERT OR REPLACE INTO kept VALUES (?, ?)", sorted(self._newest.items())
            )
            self._newest.clear()
            self._has_older = True


@contextmanager
def disk_memory() -> Iterator[Callable[[], DiskMemory]]:
    """Give what empties the memory and hands it over."""
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        yield lambda: DiskMemory(database)


@contextmanager
def rejects_file(path: Path | None) -> Iterator[Callable[[RefusedItem], None]]:
    """Give what writes each refused item as a line of JSON; it goes nowhere without a path. Empty where none is refused."""
    if path is None:
        yield lambda _: None
        return
    with path.open("w", encoding="utf-8") as file:

        def refuse(item: RefusedItem) -> None:
            file.write(json.dumps(refused_as_json(item), ensure_ascii=True) + "\n")

        yield refuse
