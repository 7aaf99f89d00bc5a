"""Faults planted in one simulated day, each with the promises of which at least one must be seen broken."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from steelyard.testing.simulated_day.plan import DayPlan
from steelyard.testing.simulated_day.server import DayParts
from tests.crash.planted_faults import Edit

ROUGH = DayPlan(
    users=40,
    hours=1.0,
    seed=7,
    look_every_s=20.0,
    requests_per_s=40.0,
    in_flight=40,
    answer_s=0.003,
)
CALM = replace(ROUGH, hours=0.5, has_faults=False, has_accidents=False)


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault: in functions of the database, in SQL on its way, or in what servers work with.

    Args:
        edits: Replacements in the text of functions; each must fit.
        rewrite: (before, after) in SQL on its way, wherever it fits; it must fit somewhere.
        alter: Changes what servers work with.
    """

    name: str
    what: str
    breaks: frozenset[str]
    plan: DayPlan = ROUGH
    edits: tuple[Edit, ...] = ()
    rewrite: tuple[str, str] | None = None
    alter: Callable[[DayParts], DayParts] = lambda parts: parts
    fitted: list[str] = field(default_factory=list)

    def rewritten(self, sql: str) -> str:
        """Return SQL with the fault in it, and note that it was planted."""
        if self.rewrite is None or self.rewrite[0] not in sql:
            return sql
        self.fitted.append(sql)
        return sql.replace(*self.rewrite)


PLANTED = (
    Planted(
        "no fencing",
        "a worker that slept past its lease still writes what it read",
        frozenset({"late results are refused", "one change for each difference"}),
        edits=(
            Edit("finish_targets", "AND g.token IN (t.lease_token, t.cancelled_token)\n", "\n"),
            Edit("finish_targets", "AND NOT coalesce(t.lease_until <= p_now, true)", ""),
        ),
    ),
    Planted(
        "budget not locked",
        "two workers grant the same tokens",
        frozenset({"within burst and rate"}),
        plan=replace(ROUGH, users=200, has_accidents=False, requests_per_s=5.0, in_flight=40),
        rewrite=(
            "FROM steelyard.provider_budget WHERE tenant_id = $1 AND provider = $2\nFOR NO KEY UPDATE SKIP LOCKED",
            "FROM steelyard.provider_budget WHERE tenant_id = $1 AND provider = $2",
        ),
    ),
    Planted(
        "login not bounded",
        "a login waits for as long as its sync takes",
        frozenset({"logins within 2 s"}),
        plan=replace(ROUGH, logins=200.0, has_accidents=False),
        alter=lambda parts: replace(parts, login_timeout_s=60.0),
    ),
    Planted(
        "spread removed",
        "all new targets are due at once",
        frozenset({"background is spread"}),
        plan=CALM,
        rewrite=("u.cost, u.due_at FROM", "u.cost, '2026-01-01Z'::timestamptz FROM"),
    ),
    Planted(
        "again forgotten",
        "what is asked for while a sync is in flight is not run once more",
        frozenset({"runs tell the truth"}),
        plan=replace(ROUGH, logins=300.0, has_accidents=False),
        edits=(
            Edit("raise_targets", "again = t.again OR p.is_in_flight,", "again = t.again,"),
            Edit(
                "raise_targets",
                "again_run_id = CASE WHEN p.is_in_flight THEN coalesce(t.again_run_id, p.new_run) ELSE t.again_run_id END,",
                "again_run_id = t.again_run_id,",
            ),
        ),
    ),
    Planted(
        "wallets not told apart",
        "accounts of wallet users are loaded as those of others",
        frozenset({"no wallet asked for"}),
        plan=CALM,
        rewrite=("AND w.context = 'MOBILE_BANKING' AND w.status", "AND w.status"),
    ),
    Planted(
        "lease does not move the due time",
        "a target in flight stays due",
        frozenset({"never two syncs of a user"}),
        edits=(
            Edit(
                "lease_targets",
                "lease_until = p_now + p_lease, due_at = p_now + p_lease,",
                "lease_until = p_now + p_lease,",
            ),
        ),
    ),
    Planted(
        "the same balance is a change",
        "each reading writes one",
        frozenset({"one change for each difference"}),
        plan=CALM,
        edits=(
            Edit(
                "mirror_balances",
                "acc.kind = 'mirrored' AND acc.posted <> g.posted",
                "acc.kind = 'mirrored'",
            ),
        ),
    ),
    Planted(
        "schedules not looked at",
        "no tick begins a run",
        frozenset({"each tick once"}),
        plan=CALM,
        rewrite=(
            "list_due_schedules($1, $2, $3, $4, $5, $6, $7)",
            "list_due_schedules($1, $2, $3, $4, $5, $6, $7) WHERE false",
        ),
    ),
    Planted(
        "jobs not handed over",
        "what schedules ask for waits for ever",
        frozenset({"jobs are done"}),
        plan=CALM,
        rewrite=(
            "hand_over_jobs($1, $2, $3, $4)",
            "hand_over_jobs($1, $2, $3, $4) WHERE false",
        ),
    ),
    Planted(
        "a login joins a sync in flight",
        "it is told what may have been read before it asked",
        frozenset({"ok means fresh", "never two syncs of a user", "runs tell the truth"}),
        plan=replace(ROUGH, logins=300.0, moves=2000.0, has_accidents=False),
        edits=(
            Edit(
                "raise_targets",
                "coalesce(t.lease_until > p_now, false) AS is_in_flight,",
                "false AS is_in_flight,",
            ),
        ),
    ),
)
