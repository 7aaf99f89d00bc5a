"""How a command ends: what it prints, and its exit code. Data on stdout, talk on stderr."""

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NoReturn

import typer

from steelyard.core.errors import Retry, SteelyardError


class ExitCode(IntEnum):
    """What a script can tell apart."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    PROVIDER_DOWN = 5
    DISCREPANCIES_REMAIN = 6
    INTERRUPTED = 130


_BY_CODE: Mapping[str, ExitCode] = {
    "invalid_input": ExitCode.USAGE,
    "invalid_setting": ExitCode.USAGE,
    "unknown_job_kind": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "run_not_dead": ExitCode.CONFLICT,
    "idempotency_conflict": ExitCode.CONFLICT,
    "user_exists": ExitCode.CONFLICT,
    "tenant_exists": ExitCode.CONFLICT,
    "account_exists": ExitCode.CONFLICT,
    "hold_not_open": ExitCode.CONFLICT,
    "already_reversed": ExitCode.CONFLICT,
    "not_reversible": ExitCode.CONFLICT,
    "topup_already_processed": ExitCode.CONFLICT,
    "balance_limit": ExitCode.CONFLICT,
}


class CommandFailed(SteelyardError):
    """A command cannot do what it was asked; the message is a full sentence."""

    code = "command_failed"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class PortTaken(CommandFailed):
    """The port that was asked for belongs to another program."""

    code = "port_taken"


class AlreadyThere(CommandFailed):
    """What should be made exists already."""

    code = "tenant_exists"


def exit_code_of(code: str) -> ExitCode:
    """Return the exit code for an error code."""
    return _BY_CODE.get(code, ExitCode.ERROR)


def print_json(value: object) -> None:
    """Write one JSON document on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table on stdout; not cut to the screen when stdout is not one."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=True).print(
        table
    )


def show(value: object, *, wants_json: bool, as_text: Callable[[], None]) -> None:
    """Print a result: the JSON value, or what `as_text` prints."""
    if wants_json:
        print_json(value)
    else:
        as_text()


def say(sentence: str) -> None:
    """Tell the person at the screen something; on stderr. If nobody listens any more, that is no reason to stop."""
    with contextlib.suppress(BrokenPipeError):
        typer.echo(sentence, err=True)


def explain_failure(error: Exception, *, wants_json: bool) -> int:
    """Say on stderr what went wrong, one sentence with its code, and return the exit code."""
    problem = problem_of(error)
    if problem["code"] == "internal_error" and _wants_traceback():
        traceback.print_exception(error)
    if wants_json:
        typer.echo(json.dumps(problem, ensure_ascii=False, default=str), err=True)
    else:
        say(f"steelyard: {problem['detail']} [{problem['code']}]")
    return int(exit_code_of(str(problem["code"])))


def problem_of(error: Exception) -> dict[str, object]:
    """Return the problem document of any error: `code`, `detail`, `retryable`, and the error's own fields."""
    if isinstance(error, SteelyardError):
        return {
            "code": error.code,
            "detail": str(error),
            "retryable": error.retry is Retry.LATER,
            **error.fields(),
        }
    settings = _settings_problem(error)
    if settings is not None:
        return {"code": "invalid_setting", "detail": settings, "retryable": False}
    if isinstance(error, OSError):
        return {"code": "system_error", "detail": _os_sentence(error), "retryable": False}
    said = " ".join(str(error).split())[:500]
    return {
        "code": "internal_error",
        "detail": f"unexpected {type(error).__name__}: {said}; this is a bug of steelyard. "
        "Set STEELYARD_LOG_LEVEL=debug to see where it happened",
        "retryable": False,
    }


def explain_usage(error: BaseException, *, wants_json: bool) -> int:
    """Say on stderr how the command line was wrong, or that it was interrupted; return the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        is_declined = isinstance(error, typer.Abort) and error.__cause__ is None
        say("steelyard: nothing was done" if is_declined else "steelyard: interrupted")
        return int(ExitCode.INTERRUPTED)
    message = getattr(error, "format_message", lambda: str(error))().strip()
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "steelyard")
    sentence = f"{' '.join(message.split()).rstrip('.')}. See `{command} --help`."
    if wants_json:
        problem = {"code": "usage", "detail": sentence, "retryable": False}
        typer.echo(json.dumps(problem, ensure_ascii=False), err=True)
    else:
        say(f"steelyard: {sentence}")
    return int(ExitCode.USAGE)


def leave(code: ExitCode) -> NoReturn:
    """End the command with this exit code."""
    raise typer.Exit(int(code))


def _environment_name(location: tuple[int | str, ...]) -> str:
    name = "_".join(map(str, location)).upper()
    return name if name.startswith("QUEUE_REDIS_") else f"STEELYARD_{name}"


def _wants_traceback() -> bool:
    return os.environ.get("STEELYARD_LOG_LEVEL", "").lower() == "debug"


def _os_sentence(error: OSError) -> str:
    where = f" {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _settings_problem(error: Exception) -> str | None:
    """Return a sentence when a setting in the environment is not acceptable."""
    if "pydantic" not in sys.modules:
        return None
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return None
    wrong = [
        f"{_environment_name(one['loc'])}: {one['msg'].lower()}"
        for one in error.errors(include_input=False, include_url=False)
    ]
    return f"{'; '.join(wrong)}. `steelyard config` shows every setting"
