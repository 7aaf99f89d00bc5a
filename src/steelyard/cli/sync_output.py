"""How `steelyard sync` shows sources and users: as JSON, and as tables."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from steelyard.cli.outcome import print_table

if TYPE_CHECKING:
    from steelyard.sync.model import SourceStatus

TIERS = ("login", "asked", "active", "today", "rest")


def lane_of(one: "SourceStatus", now: datetime) -> dict[str, object]:
    """Return a source as JSON, with the age of what waits longest."""
    from steelyard.sync.shapes import tell_source

    told: dict[str, Any] = tell_source(one).model_dump()
    due = {tier.tier: tier.due for tier in one.tiers}
    ages = {
        tier.tier: round(max(0.0, (now - tier.oldest_due_at).total_seconds()), 3)
        for tier in one.tiers
    }
    logins = due.pop("login", 0)
    return {**told, "priority": logins, "background": sum(due.values()), "oldest_due_s": ages}


def print_sources(lanes: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per tenant and source."""
    tiers = (f"{tier}: due, oldest" for tier in TIERS)
    columns = ("tenant", "source", "state", "in flight", *tiers, "tokens", "today")
    print_table(columns, [_row_of(lane) for lane in lanes])


def _row_of(lane: Mapping[str, Any]) -> list[str]:
    due = {tier["tier"]: tier["due"] for tier in lane["tiers"]}
    ages = lane["oldest_due_s"]
    limit = lane["daily_limit"]
    return [
        lane["tenant"],
        lane["provider"],
        state_of(lane),
        f"{lane['in_flight']}/{lane['in_flight_max']}",
        *(f"{due[tier]:,}, {age_of(ages[tier])}" if tier in due else "-" for tier in TIERS),
        f"{lane['tokens']:.1f}/{lane['burst']:g}",
        f"{lane['used_today']:,}" + (f"/{limit:,}" if limit is not None else ""),
    ]


def state_of(lane: Mapping[str, Any]) -> str:
    """Return what a source is doing, in words; the first thing that keeps it from being asked."""
    if lane["paused_at"]:
        reason = f" ({lane['pause_reason']})" if lane["pause_reason"] else ""
        return f"paused by {lane['paused_by']}{reason}"
    words = []
    if lane["circuit"] != "closed":
        until = f" until {lane['circuit_until']}" if lane["circuit_until"] else ""
        words.append(f"circuit {lane['circuit'].replace('_', '-')}{until}")
    if lane["blocked_until"]:
        words.append(f"asked us to wait until {lane['blocked_until']}")
    if lane["tiered"]:
        words.append("tiers by activity")
    if lane["paused_users"]:
        words.append(f"{lane['paused_users']:,} users paused")
    return ", ".join(words) or "asked"


def age_of(seconds: float) -> str:
    """Return an age in the largest unit that leaves a number to read."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def print_user(told: Mapping[str, Any]) -> None:
    """Print one user: how the target stands, the accounts, the last runs."""
    target = told["target"]
    print_table(("user", "asked for", "next", "last result", "last success"), [_stand_of(told)])
    if target is not None and target["paused_at"]:
        reason = target["pause_reason"] or "no reason given"
        print_table(
            ("paused", "by", "because"), [[target["paused_at"], target["paused_by"], reason]]
        )
    print_table(
        ("account", "number", "type", "balance", "changed", "read"),
        [
            [
                one["account"] + (" (primary)" if one["primary"] else ""),
                f"…{one['ending']}" + ("" if one["active"] else ", closed"),
                one["type"] or "-",
                f"{one['balance']} {one['currency']}" if one["balance"] is not None else "-",
                one["as_of"] or "never",
                one["read_at"] or "never",
            ]
            for one in told["accounts"]
        ],
    )
    print_table(
        ("run", "state", "attempts", "asked", "ended", "error"),
        [
            [
                one["id"],
                one["state"],
                str(one["attempts"]),
                one["created_at"],
                one["finished_at"] or "-",
                f"{one['error']} [{one['error_code']}]" if one["error_code"] else "-",
            ]
            for one in told["runs"]
        ],
    )


def _stand_of(told: Mapping[str, Any]) -> list[str]:
    target, reason = told["target"], told["reason"]
    asked = "yes" if reason is None else f"no: {reason}"
    if target is None:
        return [told["user"], asked, "-", "-", "-"]
    due = "now" if target["in_flight"] else (target["due_at"] or "when asked for")
    last = target["last_result"] or "-"
    return [told["user"], asked, due, last, target["last_success_at"] or "never"]
