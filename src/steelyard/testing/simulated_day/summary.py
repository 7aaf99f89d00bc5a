"""A day in numbers, for people and for programs."""

from collections import Counter

from steelyard.testing.simulated_day.evidence import Evidence


def summarise(seen: Evidence, *, took_s: float) -> dict[str, object]:
    """Return what happened in a day; times in seconds, those of logins virtual."""
    counts, plan = seen.trace.counts, seen.plan
    waits = sorted(login.end_s - login.begin_s for login in seen.logins if not login.is_cut_off)
    fresh = sum(bool(login.result and login.result.ok) for login in seen.logins)
    states = Counter(str(run["state"]) for run in seen.books.runs)
    return {
        "users": plan.users,
        "virtual_hours": plan.hours,
        "seed": plan.seed,
        "took_s": round(took_s, 1),
        "leases": counts["lease"],
        "requests": len(seen.town.asked),
        "faults_met": sum(seen.town.bank.counts.faults.values()),
        "kinds_of_faults_met": len(seen.town.bank.counts.faults),
        "late_results_refused": counts["late"],
        "moves_at_the_bank": counts["move"],
        "changes": len(seen.books.changes),
        "logins": len(seen.logins),
        "logins_fresh": fresh,
        "login_p50_s": _quantile(waits, 0.5),
        "login_p99_s": _quantile(waits, 0.99),
        "login_longest_s": _quantile(waits, 1.0),
        "servers_killed": counts["killed"],
        "servers_stopped": counts["stopped"],
        **{f"runs_{state}": states[state] for state in sorted(states)},
        "statements": seen.statements,
        "trace_lines": seen.trace.lines,
        "trace": seen.trace.digest,
    }


def _quantile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that so great a share is not above."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)
