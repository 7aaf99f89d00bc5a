"""Waits for a server to answer: as long as it gets on with its work, however long that takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from steelyard.runtime.embedded.address import ServerAddress, address_of_root
from steelyard.runtime.embedded.binaries import Binaries
from steelyard.runtime.embedded.errors import PostgresStartFailed, SecretUnsafe
from steelyard.runtime.embedded.folder import DataFolder
from steelyard.runtime.embedded.probe import Answer, ask
from steelyard.runtime.embedded.processes import PidFile, read_pid_file

Report = Callable[[str], None]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25
_FIRST_REPORT_S, _REPORT_EVERY_S = 2.0, 5.0
_TAIL_BYTES = 16 * 1024


@dataclass(frozen=True)
class Waiting:
    """For what is waited, who is told, and how long the server may stand still (seconds)."""

    folder: DataFolder
    binaries: Binaries
    password: str = field(repr=False)
    report: Report
    deadline_s: float


def wait_for_answer(
    waiting: Waiting, *, pid: int, is_alive: Callable[[], bool]
) -> tuple[ServerAddress, Answer] | None:
    """Wait until the server `pid` answers; `None` when it ended first.

    There is no limit while its log shows that it gets on (replaying its log after a crash can take
    long); standing still for `deadline_s` is the limit.

    Raises:
        PostgresStartFailed: It stood still, or another server answers in its place.
        SecretUnsafe: The password is not the database's.
    """
    began = stood_still_since = time.monotonic()
    told, seen, pause_s, problem = began + _FIRST_REPORT_S, "", _FIRST_PAUSE_S, "it says nothing"
    while is_alive():
        claim = read_pid_file(waiting.folder)
        if claim is not None and claim.pid == pid and claim.status.startswith("ready"):
            address = address_in(claim, waiting.password)
            answer = ask(waiting.folder, waiting.binaries, address, makes_database=True)
            if answer.came:
                return address, answer
            _check_hopeless(waiting, answer)
            problem = answer.problem
        now, said = time.monotonic(), last_words(waiting.folder)
        if said != seen:
            seen, stood_still_since = said, now
        if now - stood_still_since > waiting.deadline_s:
            raise PostgresStartFailed(
                step="starting PostgreSQL",
                problem=f"it stood still for {waiting.deadline_s:.0f} s ({said or problem})",
                log=waiting.folder.log,
            )
        if now > told:
            told = now + _REPORT_EVERY_S
            waiting.report(f"PostgreSQL is still starting after {now - began:.0f} s: {said}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, _LONGEST_PAUSE_S)
    return None


def address_in(claim: PidFile, password: str) -> ServerAddress:
    """Return the address that a pid file claims, for the superuser."""
    return address_of_root(claim.socket_dir or claim.listens_on, claim.port or 0, password)


def last_words(folder: DataFolder) -> str:
    """Return the last thing the server reported about its own work, without time and process."""
    for line in reversed(read_log(folder).splitlines()):
        _, found, message = line.partition("] LOG:  ")
        if found:
            return message.strip()
    return ""


def read_log(folder: DataFolder, *, since: int = 0) -> str:
    """Return the end of the log, at most 16 KiB, from byte `since` on."""
    try:
        with folder.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(since, size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""


def find_cause(log: str) -> str:
    """Return the most telling line of a failed start's log."""
    lines = log.splitlines()
    for mark in ("PANIC:", "FATAL:", "ERROR:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()
    return lines[-1].strip() if lines else "it ended without a word"


def _check_hopeless(waiting: Waiting, answer: Answer) -> None:
    """Stop waiting for what will never change."""
    if "password authentication failed" in answer.problem:
        raise SecretUnsafe(
            path=waiting.folder.password,
            problem="the database was made with another password",
            remedy="Put the file back from a backup of the data folder",
        )
    if answer.problem.startswith("another server answered"):
        raise PostgresStartFailed(
            step="starting PostgreSQL", problem=answer.problem, log=waiting.folder.log
        )
