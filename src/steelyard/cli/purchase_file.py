"""A file of purchases as lines, and how often each content came, in little memory however large it is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from steelyard.core.money import Currency
from steelyard.ledger.import_purchases import ReadLines
from steelyard.ledger.purchases import (
    LINE_BYTES_MAX,
    CountOccurrence,
    Purchase,
    RefusedLine,
    read_purchases,
)

_CACHE_KIB = 16_384


def reader_of(path: Path, source: str, currency: Currency) -> ReadLines:
    """Return what reads the file from its first line each time it is called."""

    def read() -> Iterator[Purchase | RefusedLine]:
        with path.open("rb") as file, counter() as count:
            lines = iter(lambda: read_line(file.readline, LINE_BYTES_MAX), b"")
            yield from read_purchases(lines, source, currency, count=count)

    return read


def read_line(readline: object, limit: int) -> bytes:
    """Return the next line, cut to `limit` + 1 bytes; the rest of a longer one is passed over. Empty: the end."""
    assert callable(readline)
    line: bytes = readline(limit + 1)
    if len(line) > limit and not line.endswith(b"\n"):
        rest: bytes = line
        while rest and not rest.endswith(b"\n"):
            rest = readline(limit + 1)
    return line


@contextmanager
def counter() -> Iterator[CountOccurrence]:
    """Count contents by their hash in a private temporary database, which goes to disk when it grows."""
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(
            "CREATE TABLE seen (hash BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID"
        )

        def count(content: bytes) -> int:
            found = database.execute(
                "INSERT INTO seen VALUES (?, 1) ON CONFLICT (hash) DO UPDATE SET n = n + 1 RETURNING n",
                (content[:16],),
            ).fetchone()
            return int(found[0])

        yield count
