"""Reads users and their accounts from the lines of a CSV or JSONL file. No files, no database.

CSV has a header and one line per account, with the fields of its user in each; JSONL has one object per user.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Final

from steelyard.core.errors import InvalidInput
from steelyard.runtime.strict_json import MalformedBody, parse_json
from steelyard.sync.enrolment import GivenUser, ItemRefused, Refusal, RefusedItem
from steelyard.sync.enrolment_fields import (
    ACCOUNT_FIELDS,
    USER_FIELDS,
    account_of,
    plain,
    user_of,
    user_of_object,
)

LINE_BYTES_MAX: Final = 262_144
"""A JSONL line with 1,000 accounts has some 150,000."""
BOM: Final = b"\xef\xbb\xbf"

_CSV_FIELDS: Final = {
    **USER_FIELDS,
    **ACCOUNT_FIELDS,
    "accountisactive": "account_is_active",
}
_NOT_TEXT: Final = (
    (b"\x1f\x8b", "it is compressed (gzip): unpack it with `gunzip` first"),
    (b"PK\x03\x04", "it is a zip file or a spreadsheet: save it as CSV in UTF-8"),
    (b"(\xb5/\xfd", "it is compressed (zstd): unpack it first"),
    (b"BZh", "it is compressed (bzip2): unpack it first"),
    (b"\xfd7zXZ", "it is compressed (xz): unpack it first"),
    (b"\xff\xfe", "it is UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16: save it as UTF-8"),
)

Lines = Iterable[bytes]
Item = GivenUser | RefusedItem


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    JSONL = "jsonl"


def read_users(lines: Lines, form: Format) -> Iterator[Item]:
    """Read a file's items in order; hold one line at a time. Empty lines are passed over.

    Args:
        lines: With or without their ends. A line longer than 262,144 bytes may be given cut: it is refused.
        form: How it is written.
    Raises:
        InvalidInput: It is empty or no text, or a CSV's header is missing, unknown or twofold.
    """
    numbered = enumerate(lines, start=1)
    at, first = next(((at, line) for at, line in numbered if line.strip()), (0, b""))
    if at == 0:
        raise InvalidInput(field="file", problem="it is empty")
    for beginning, problem in _NOT_TEXT:
        if first.startswith(beginning):
            raise InvalidInput(field="file", problem=problem)
    first = first.removeprefix(BOM)
    if form is Format.CSV:
        columns = _columns(first)
        return _items(numbered, lambda line, raw: _read_row(line, raw, columns))
    return _items(_chained(at, first, numbered), _read_object)


def _chained(
    at: int, first: bytes, rest: Iterable[tuple[int, bytes]]
) -> Iterator[tuple[int, bytes]]:
    yield at, first
    yield from rest


def _items(
    numbered: Iterable[tuple[int, bytes]], read: Callable[[int, bytes], GivenUser]
) -> Iterator[Item]:
    for line, raw in numbered:
        if not raw.strip(b" \t\r\n"):
            continue
        try:
            if len(raw) > LINE_BYTES_MAX:
                raise ItemRefused(
                    "line", Refusal.LINE_TOO_LONG, f"it is longer than {LINE_BYTES_MAX:,} bytes"
                )
            yield read(line, raw)
        except ItemRefused as refused:
            yield refused.at(line)


def _columns(header: bytes) -> list[str]:
    try:
        names = _split(header)
    except ItemRefused as refused:
        raise InvalidInput(field="header", problem=refused.reason) from None
    columns = []
    for name in names:
        meaning = _CSV_FIELDS.get(plain(name))
        if meaning is None:
            hint = "; columns are separated by commas" if ";" in name or "\t" in name else ""
            raise InvalidInput(field="header", problem=f"there is no column {name[:60]!r}{hint}")
        if meaning in columns:
            raise InvalidInput(field="header", problem=f"the column {name[:60]!r} is there twice")
        columns.append(meaning)
    if "id" not in columns and "username" not in columns:
        raise InvalidInput(
            field="header", problem="the first line names the columns, and one is id or username"
        )
    return columns


def _read_row(line: int, raw: bytes, columns: list[str]) -> GivenUser:
    values = _split(raw)
    if len(values) != len(columns):
        raise ItemRefused(
            "line",
            Refusal.UNREADABLE_LINE,
            f"it has {len(values)} columns, the header {len(columns)}",
        )
    fields: dict[str, object] = dict(zip(columns, values, strict=True))
    account = account_of({**fields, "is_active": fields.get("account_is_active")})
    return user_of(line, fields, () if account is None else (account,))


def _read_object(line: int, raw: bytes) -> GivenUser:
    try:
        value = parse_json(raw.strip())
    except (MalformedBody, InvalidInput) as error:
        problem = error.problem
        raise ItemRefused("line", Refusal.UNREADABLE_LINE, problem) from None
    return user_of_object(line, value)


def _split(raw: bytes) -> list[str]:
    """Split one line of a CSV; a quoted field does not go on in the next line."""
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ItemRefused(
            "line", Refusal.UNREADABLE_LINE, f"byte {error.start + 1} is not UTF-8"
        ) from None
    if not text.isprintable():
        raise ItemRefused(
            "line", Refusal.UNREADABLE_LINE, "it holds a control or other unprintable character"
        )
    try:
        [row] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise ItemRefused(
            "line", Refusal.UNREADABLE_LINE, f"its quotes do not match ({error})"
        ) from None
    return [value.strip() for value in row]
