"""How `steelyard jobs` prints runs and figures for the eye."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard.cli.outcome import print_table

Told = Mapping[str, Any]


def print_runs(runs: Sequence[Told]) -> None:
    """Print a table of runs."""
    print_table(
        ("id", "kind", "subject", "state", "asked for (UTC)", "took", "attempts", "error"),
        [
            (
                one["id"],
                one["kind"],
                _printable(one["subject"]),
                one["state"],
                _moment(one["created_at"]),
                _took(one),
                str(one["attempts"]),
                "" if not one["error"] else str(one["error"].get("code", "")),
            )
            for one in runs
        ],
    )


def print_run(run: Told) -> None:
    """Print all that is known of one run, a line for each fact."""
    rows = [(name, _text(value)) for name, value in run.items() if value not in (None, {})]
    print_table(("", ""), rows)


def print_figures(figures: Sequence[Told]) -> None:
    """Print a table of figures."""
    counted = ("waiting", "active", "delayed", "completed", "failed")
    print_table(
        ("kind", *counted, "p50", "p95"),
        [
            (
                one["kind"],
                *(f"{one[name]:,}" for name in counted),
                _seconds(one["p50_s"]),
                _seconds(one["p95_s"]),
            )
            for one in figures
        ],
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return _printable(value)
    return json.dumps(value, ensure_ascii=True, indent=2)


def _printable(text: str) -> str:
    """Return text without anything that could steer a terminal; subjects come from outside."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _moment(text: str) -> str:
    return text[:19].replace("T", " ")


def _took(run: Told) -> str:
    if run["started_at"] is None or run["finished_at"] is None:
        return f"{run['progress']} %" if run["progress"] else ""
    from datetime import datetime

    took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["started_at"])
    return _seconds(took.total_seconds())


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:,.1f} s"
