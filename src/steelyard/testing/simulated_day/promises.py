"""What has to be true at a day's end, whatever went wrong in it. Each promise lists what breaks it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from steelyard.core.ids import UserId
from steelyard.sync.model import BALANCES
from steelyard.testing.simulated_day.evidence import Evidence, Row, SeenLogin
from steelyard.testing.simulated_day.plan import CALM_UNTIL
from steelyard.testing.simulated_day.trace import SeenLease
from steelyard.testing.simulated_day.upkeep import OFTEN, OFTEN_MIN

LOGIN_S: Final = 2.0
FETCH_S: Final = 20.0
"""Longest an attempt asks; what moved meanwhile may have been missed by it."""
ON_THE_WAY_S: Final = 0.5
"""Longest from a grant to its request, while no server suffers."""
JOB_S: Final = 300.0
"""Longest a job takes from its tick on, with the workers that die over it."""
SUFFERING_S: Final = 60.0
"""So long after an accident requests may come that were granted before it."""
NOT_FINAL: Final = frozenset({"pending", "running", "retrying"})

Breaches = Iterable[str]


def judge(evidence: Evidence) -> dict[str, list[str]]:
    """Return what breaks each promise; nothing breaks one that was kept."""
    return {name: list(promise(evidence)) for name, promise in PROMISES.items()}


def find_untrue_balances(seen: Evidence) -> Breaches:
    """Ours is theirs on every account whose last sync succeeded after its last change; at the end that is every one."""
    targets = {row["subject"]: row for row in seen.books.targets}
    for account in seen.books.accounts:
        user, number = account["user_id"], account["number"]
        if user in seen.town.wallet_since:
            continue
        target = targets.get(user)
        if target is None or target["last_result"] != "ok":
            yield f"{user} was not synced after everything was well again: {target}"
            continue
        read_s = _second(seen, target["last_success_at"])
        theirs = seen.town.balance_at_end(number)
        if read_s - FETCH_S > seen.town.moved_last_s(number) and account["posted"] != theirs:
            yield f"{user} {number}: {account['posted']} here, {theirs} at the bank"


def find_wrong_changes(seen: Evidence) -> Breaches:
    """Each difference is one change: numbered without a gap, never zero, and balances follow each other as there."""
    by_account: dict[int, list[Row]] = defaultdict(list)
    for change in seen.books.changes:
        by_account[change["account_id"]].append(change)
    for account in seen.books.accounts:
        balance, number = 0, account["number"]
        truths = [minor for _, minor in seen.town.truth[number]]
        for place, change in enumerate(by_account[account["id"]], start=1):
            balance += change["amount"]
            if change["seq"] != place or change["amount"] == 0:
                yield f"{number}: change {change['seq']} of {change['amount']} at place {place}"
            if change["balance_after"] != balance or balance not in truths:
                yield f"{number}: change {place} leads to {balance}, not true at the bank any more"
            else:
                truths = truths[truths.index(balance) :]
        if account["posted"] != balance or account["seq"] != len(by_account[account["id"]]):
            yield f"{number}: {account['posted']} stored, {balance} by its changes"


def find_untold_changes(seen: Evidence) -> Breaches:
    """What was told is what was written, and each change was told at most once."""
    written = {(row["account_id"], row["seq"]): row["balance_after"] for row in seen.books.changes}
    told = [(event.account, event.seq) for event in seen.trace.events]
    if len(set(told)) != len(told):
        yield f"{len(told) - len(set(told))} changes were told twice"
    for event in seen.trace.events:
        if written.get((event.account, event.seq or 0)) != event.posted:
            yield f"account {event.account}: {event.posted} was told as change {event.seq}"
    if not seen.accidents and len(told) != len(written):
        yield f"{len(written) - len(told)} changes were not told"


def find_wallets_asked_for(seen: Evidence) -> Breaches:
    """Nobody is asked for who had only a wallet when it was leased."""
    leases = _leases_by_user(seen)
    for at_s, number in seen.town.asked:
        user = seen.town.owners[number]
        since_s = seen.town.wallet_since.get(user)
        if since_s is None or at_s < since_s:
            continue
        granted = [_second(seen, one.at) for one in leases[user] if _second(seen, one.at) <= at_s]
        if not granted or granted[-1] > since_s:
            yield f"{user} was asked for at {at_s:.3f}, a wallet since {since_s:.3f}"


def find_double_syncs(seen: Evidence) -> Breaches:
    """Never are two syncs of a user in flight: neither at the bank nor by lease."""
    for user, most in sorted(seen.town.bank.counts.in_flight_max_of.items()):
        if most > 1:
            yield f"{most} requests for {user} at once"
    ended = {(one.user, one.token): one.at for one in seen.trace.finishes}
    for user, leases in _leases_by_user(seen).items():
        for before, after in pairwise(leases):
            end = min(ended.get((user, before.token), before.until), before.until)
            if after.at < end and before.token + 1 == after.token:
                yield f"{user}: lease {after.token} at {after.at}, the one before it until {end}"


def find_late_results(seen: Evidence) -> Breaches:
    """A worker that slept writes nothing: what is accepted comes from the newest lease, while that lasts."""
    leases = _leases_by_user(seen)
    for finish in seen.trace.finishes:
        newest = [one for one in leases[UserId(finish.user)] if one.at <= finish.at][-1:]
        if not newest or newest[0].token != finish.token or finish.at >= newest[0].until:
            yield f"{finish.user}: lease {finish.token} was written at {finish.at}, newest {newest}"


def find_excess_requests(seen: Evidence) -> Breaches:
    """The bank's own meter never sees more than the burst and what the rate allows in any stretch of time."""
    rate = burst = seen.plan.requests_per_s
    level = -burst
    before_s = 0.0
    for at_s, _ in seen.town.asked:
        level = max(-burst, level - rate * (at_s - before_s)) + 1
        before_s = at_s
        if any(begin_s <= at_s <= end_s + SUFFERING_S for begin_s, end_s in seen.accidents):
            level = min(level, 0.0)
        if level > rate * ON_THE_WAY_S:
            yield f"at {at_s:.3f} there were {level:.1f} requests more than allowed"


def find_late_logins(seen: Evidence) -> Breaches:
    """Every login is answered within two seconds, whatever hangs, and refused by nothing but its user's standing."""
    for login in seen.logins:
        took_s = login.end_s - login.begin_s
        if not login.is_cut_off and (took_s > LOGIN_S + 1e-6 or login.error is not None):
            yield f"{login.user} at {login.begin_s:.3f}: {took_s:.3f} s, {login.error}"


def find_stale_logins(seen: Evidence) -> Breaches:
    """A login that is told `ok` is told a balance that was true between its question and its answer."""
    for login in seen.logins:
        if login.result is not None and login.result.ok and not _was_true(seen, login):
            yield f"{login.user} at {login.begin_s:.3f} was told {login.result.balance}"


def find_lost_logins(seen: Evidence) -> Breaches:
    """While nothing is wrong, every login gets its fresh balance."""
    calm_s = CALM_UNTIL * seen.plan.length_s
    for login in seen.logins:
        is_well = login.end_s < calm_s and login.user not in seen.town.wallet_since
        if is_well and not (login.result and login.result.ok):
            yield f"{login.user} at {login.begin_s:.3f}: {login.result}"


def find_untruthful_runs(seen: Evidence) -> Breaches:
    """Every run has ended, or a target says that it will go on, and with nobody at work none says it is."""
    coming = {
        run
        for row in seen.books.targets
        for run in (row["run_id"], row["again_run_id"])
        if run is not None
    }
    for run in seen.books.runs:
        is_sync = run["kind"] == BALANCES
        if is_sync and run["state"] in NOT_FINAL and run["id"] not in coming:
            yield f"run {run['id']} of {run['subject']} is {run['state']}, and nobody will end it"
        if run["state"] == "running":
            yield f"run {run['id']} of {run['subject']} is running, and nobody works"
        times = [run["created_at"], run["started_at"], run["finished_at"]]
        known = [moment for moment in times if moment is not None]
        if known != sorted(known):
            yield f"run {run['id']} of {run['subject']}: {known} are not in order"
        if run["state"] == "completed" and run["code"] == "worker_lost" and run["attempts"] < 2:
            yield f"run {run['id']} lost its worker and was completed by the same attempt"


def find_wrong_ticks(seen: Evidence) -> Breaches:
    """Each tick of the schedule asked for a run, however many servers looked or died; none was left out or came twice.

    A run that is asked for already serves both: at two o'clock every tenant's own proof is due too.
    """
    runs = {run["id"] for run in seen.books.runs}
    ticks = [tick for tick in seen.books.ticks if tick["schedule"] == OFTEN]
    were = [tick["planned_for"] for tick in ticks if tick["run_id"] in runs]
    step = timedelta(minutes=OFTEN_MIN)
    before_end = (seen.end - seen.beginning - timedelta(seconds=JOB_S)) // step
    planned = [seen.beginning + step * place for place in range(1, before_end + 1)]
    for tick in sorted(set(planned) - set(were)):
        yield f"the tick of {tick} asked for no run"
    for tick in sorted(set(were)):
        if were.count(tick) > 1:
            yield f"the tick of {tick} asked for {were.count(tick)} runs"


def find_unfinished_jobs(seen: Evidence) -> Breaches:
    """Every job is done soon, whoever died over it, and no proof had anything to repair."""
    for run in seen.books.runs:
        if run["kind"] == BALANCES:
            continue
        is_due = (seen.end - run["created_at"]).total_seconds() > JOB_S
        if is_due and run["state"] != "completed":
            yield f"job {run['id']} of {run['kind']} is {run['state']}: {run['code']}"
        if (run["fixed"] or "0", run["remaining"] or "0") != ("0", "0"):
            yield f"job {run['id']} repaired {run['fixed']}, {run['remaining']} are left"


def find_herds(seen: Evidence) -> Breaches:
    """While nothing is wrong, the background is spread evenly over its period."""
    length_s = seen.plan.interval_s / 5
    calm_s = min(CALM_UNTIL * seen.plan.length_s, seen.plan.interval_s)
    even = len(seen.books.targets) * length_s / seen.plan.interval_s
    counts: dict[int, int] = defaultdict(int)
    for lease in seen.trace.leases:
        at_s = _second(seen, lease.at)
        if at_s < calm_s and lease.priority == 0:
            counts[int(at_s / length_s)] += 1
    for part, count in sorted(counts.items()):
        if count > 2 * even + 5:
            yield f"{count} of {len(seen.books.targets)} users in part {part} of the period"


def find_discrepancies(seen: Evidence) -> Breaches:
    """`verify` finds nothing: every balance follows from its changes, every chain is whole."""
    return [one.sentence for one in seen.report.details]


def find_deadlocks(seen: Evidence) -> Breaches:
    """No statements waited for one another."""
    return [f"{seen.deadlocks} deadlocks"] if seen.deadlocks else []


PROMISES: Final[Mapping[str, Callable[[Evidence], Breaches]]] = {
    "ours is theirs": find_untrue_balances,
    "one change for each difference": find_wrong_changes,
    "told is what was written": find_untold_changes,
    "no wallet asked for": find_wallets_asked_for,
    "never two syncs of a user": find_double_syncs,
    "late results are refused": find_late_results,
    "within burst and rate": find_excess_requests,
    "logins within 2 s": find_late_logins,
    "ok means fresh": find_stale_logins,
    "fresh while all is well": find_lost_logins,
    "runs tell the truth": find_untruthful_runs,
    "each tick once": find_wrong_ticks,
    "jobs are done": find_unfinished_jobs,
    "background is spread": find_herds,
    "verify is clean": find_discrepancies,
    "no deadlock": find_deadlocks,
}


def _second(seen: Evidence, moment: datetime) -> float:
    return (moment - seen.beginning) / timedelta(seconds=1)


def _was_true(seen: Evidence, login: SeenLogin) -> bool:
    assert login.result is not None
    number = seen.town.numbers_of(login.user)[0]
    balance = login.result.balance
    return balance is not None and seen.town.was_true(
        number, balance, begin_s=login.begin_s, end_s=login.end_s
    )


def _leases_by_user(seen: Evidence) -> dict[UserId, list[SeenLease]]:
    found: dict[UserId, list[SeenLease]] = defaultdict(list)
    for lease in seen.trace.leases:
        found[UserId(lease.user)].append(lease)
    return found
