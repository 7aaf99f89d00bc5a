"""One table from codes to HTTP; nothing of an unexpected error is told."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from steelyard.core.errors import (
    DatabaseUnavailable,
    InvalidInput,
    NotFound,
    Overloaded,
    SteelyardError,
)
from steelyard.runtime.problems import MEANINGS, problem_of

DECISIONS = sorted((Path(__file__).parents[2] / "docs" / "decisions").glob("*.md"))
DECISION = "\n".join(path.read_text() for path in DECISIONS)

# Only a start or a command meets these; no request does.
AT_START = {
    "provision_refused",
    "schema_behind",
    "unsafe_database",
    "unsafe_settings",
    "key_set_unavailable",
    "secret_unusable",
    "anchor_unreadable",
    "import_refused",
    "job_engine_unusable",
}
# Told by a run, never by an answer.
IN_RUNS = {"job_timeout", "lease_lost"}


def _classes(root: type[SteelyardError]) -> set[type[SteelyardError]]:
    found = {root}
    for one in root.__subclasses__():
        found |= _classes(one)
    return found


def test_the_table_is_the_one_that_was_decided() -> None:
    decided: dict[str, int] = {}
    for codes, status in re.findall(r"^\| (`[^|]+) \| (\d{3}) \|", DECISION, re.MULTILINE):
        decided.update({code: int(status) for code in re.findall(r"`([a-z_]+)`", codes)})
    assert {code: meaning.status for code, meaning in MEANINGS.items()} == decided


def test_every_error_a_request_can_meet_is_in_the_table() -> None:
    import_module("steelyard.app")
    codes = {
        one.code
        for one in _classes(SteelyardError)
        if one.__module__.startswith("steelyard.")
        and ".embedded" not in one.__module__
        and not one.__module__.startswith("steelyard.cli.")  # other tests import the commands
        # Told by a run, never by an answer.
        and not one.__module__.startswith("steelyard.providers.")
    }
    unknown = {code for code in codes if code not in MEANINGS}
    assert unknown <= AT_START | IN_RUNS


def test_our_errors_tell_their_facts() -> None:
    problem = problem_of(InvalidInput(field="amount", problem="is odd"))
    told = json.loads(problem.encode("request-1"))
    assert told == {
        "type": "urn:steelyard:problem:invalid_input",
        "title": "A value is not acceptable",
        "status": 422,
        "detail": "amount: is odd; nothing was changed",
        "code": "invalid_input",
        "request_id": "request-1",
        "retryable": False,
        "param": "amount",
    }


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable(doing="x"), Overloaded(queue="the ledger", limit=1)]
)
def test_what_passes_by_itself_says_when_to_come_back(error: SteelyardError) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.retryable) == (503, True)
    assert (b"retry-after", b"1") in problem.headers


@pytest.mark.parametrize("error", [RuntimeError("password=hunter2"), KeyError("secret")])
def test_an_unexpected_error_tells_nothing_of_itself(error: Exception) -> None:
    problem = problem_of(error)
    text = problem.encode("r").decode()
    assert (problem.status, problem.code, problem.retryable) == (500, "internal_error", False)
    assert "hunter2" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "not_found"),
        (405, "method_not_allowed"),
        (418, "invalid_input"),
        (502, "internal_error"),
    ],
)
def test_the_frameworks_refusals_are_told_alike(status: int, code: str) -> None:
    assert problem_of(HTTPException(status, "internal detail")).code == code


def test_half_a_surrogate_in_a_message_does_no_harm() -> None:
    told = json.loads(problem_of(NotFound(kind="x", identifier="\ud800")).encode("r"))
    assert told["code"] == "not_found"
