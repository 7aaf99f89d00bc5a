"""Reads JSON the way money needs it: nothing is guessed, nothing is rounded, nothing comes twice.

`json.loads` takes duplicate keys (the last wins), NaN and lone surrogates, and makes floats of decimals.
Here each of these is an error, and a number with a fraction or an exponent becomes a `Decimal`, so that
neither an integer field nor a text field can take it by accident.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec

from steelyard.core.errors import InvalidInput, SteelyardError

DEPTH_MAX = 32
"""How deeply objects and arrays may be nested."""

Shape = TypeVar("Shape")


class MalformedBody(SteelyardError):
    """The body is not JSON, or not JSON with one meaning."""

    code = "malformed_body"

    def __init__(self, *, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the body cannot be read: {problem}; nothing was changed")


def parse_json(body: bytes) -> object:
    """Read one JSON document; decimals come as `Decimal`, an empty body as an empty object.

    Raises:
        MalformedBody: Not UTF-8, not JSON, a key given twice, NaN or Infinity, or nested too deeply.
        InvalidInput: A text holds NUL or half a surrogate pair, which the database cannot keep.
    """
    if not body:
        return {}
    try:
        value = _decode(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedBody(problem="it is not UTF-8") from None
    except (ValueError, InvalidOperation) as error:
        raise MalformedBody(problem=str(error)[:120]) from None
    except RecursionError:
        raise MalformedBody(problem="it is nested too deeply") from None
    if b"\\u" in body or b"[" in body or body.count(b"{") > 1:  # else nothing below can be wrong
        _check(value, DEPTH_MAX)
    return value


def read_body(body: bytes, shape: type[Shape]) -> Shape:
    """Read the body as `shape`, a msgspec type, without any conversion between kinds of values.

    Raises:
        MalformedBody: See `parse_json`.
        InvalidInput: A field is missing, unknown, or of another kind; `param` names it.
    """
    try:
        return msgspec.convert(parse_json(body), shape, builtin_types=(Decimal,))
    except msgspec.ValidationError as error:
        raise explain(error) from None


def read_query(query: bytes, shape: type[Shape]) -> Shape:
    """Read a query string as `shape`; numbers and booleans are taken from their text.

    Raises:
        InvalidInput: A parameter is unknown, given twice, of another kind, or holds NUL.
    """
    if not query:
        pairs: list[tuple[str, str]] = []
    else:
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32)
        except ValueError:
            raise InvalidInput(field="query", problem="it cannot be read") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise InvalidInput(field="query", problem="a parameter is given twice")
    for name, text in pairs:
        check_text(name, field="query")
        check_text(text, field=name[:80])
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError as error:
        raise explain(error) from None


def explain(error: msgspec.ValidationError) -> InvalidInput:
    """Return what a validation error says, with the field it is about."""
    problem, _, place = str(error).partition(" - at `$.")
    field = place.rstrip("`")
    if not field:
        named = problem.partition("field `")[2].partition("`")[0]
        field = named or "body"
    return InvalidInput(field=field[:80], problem=problem[:1].lower() + problem[1:200])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_refuse_constant
).decode


def _check(value: object, depth: int) -> None:
    if isinstance(value, str):
        check_text(value)
    elif isinstance(value, dict | list):
        if depth == 0:
            raise MalformedBody(problem=f"it is nested more than {DEPTH_MAX} deep")
        if isinstance(value, dict):
            for name in value:
                check_text(name)
            value = list(value.values())
        for one in value:
            _check(one, depth - 1)


def check_text(text: str, *, field: str = "body") -> str:
    """Return text that the database can keep.

    Raises:
        InvalidInput: It holds NUL or half a surrogate pair.
    """
    if "\x00" in text:
        raise InvalidInput(field=field, problem="a text holds the character NUL")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput(field=field, problem="a text holds half a surrogate pair") from None
    return text
