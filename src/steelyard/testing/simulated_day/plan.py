"""What a simulated day is made of, and when what happens; all of it follows from the seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from steelyard.providers.t24.simulator.faults import Fault, PlannedFault

_NIGHT: Final = (0.2, 0.1, 0.1, 0.1, 0.2, 0.5)
_MORNING: Final = (1.0, 1.6, 2.0, 1.8, 1.5, 1.4)
_AFTERNOON: Final = (1.6, 1.4, 1.2, 1.2, 1.3, 1.5)
_EVENING: Final = (1.7, 1.6, 1.3, 1.0, 0.7, 0.4)
LOGINS_BY_HOUR: Final = (*_NIGHT, *_MORNING, *_AFTERNOON, *_EVENING)
"""How many logins come in each hour of a day, against the mean of all."""
CALM_UNTIL: Final = 0.08
"""Part of the day at its beginning in which nothing goes wrong."""
WELL_AGAIN: Final = 0.9
"""Part of the day after which nothing goes wrong any more."""

_MIXED: Final = tuple(
    PlannedFault(fault, share=0.001)
    for fault in Fault
    if fault not in (Fault.UNAUTHORISED, Fault.FORBIDDEN)
)
UNREACHABLE: Final = "unreachable"
SLOW: Final = "slow"


@dataclass(frozen=True, slots=True)
class DayPlan:
    """How a day is set up.

    Args:
        users: Of the bank; each tenth has a wallet only and is never asked for.
        hours: How long it lasts; a shorter one goes through the same incidents sooner.
        seed: The same one makes the same day.
        interval_s: Between two syncs of a user.
        look_every_s: `QUEUE_PROCESS_INTERVAL`; a login is looked at at once.
        requests_per_s: What the bank allows.
        in_flight: What the bank allows.
        logins: Per user and day.
        moves: Of balances at the bank, per user and day.
        processes: Servers beside each other.
        answer_s: Virtual seconds the database takes for a statement.
        has_faults: Whether the bank fails now and then.
        has_accidents: Whether servers are killed and stopped.
    """

    users: int = 500
    hours: float = 24.0
    seed: int = 1
    interval_s: float = 300.0
    look_every_s: float = 60.0
    requests_per_s: float = 100.0
    in_flight: int = 100
    logins: float = 4.0
    moves: float = 6.0
    processes: int = 2
    answer_s: float = 0.005
    has_faults: bool = True
    has_accidents: bool = True

    @property
    def length_s(self) -> float:
        """Virtual seconds in which users come and balances move."""
        return self.hours * 3600

    @property
    def settle_s(self) -> float:
        """Virtual seconds after them in which everybody is synced once more."""
        return self.interval_s * 1.5 + 60

    def chance(self, purpose: str) -> Random:
        """Return chance of this day for one purpose, so that more of one thing changes no other."""
        return Random(f"{self.seed} {purpose}")  # noqa: S311 - chance that can be repeated

    def moments(self, purpose: str, per_user: float, *, by_hour: bool = False) -> Iterator[float]:
        """Yield seconds at which something happens, `per_user` times a user in a day, never at fixed gaps."""
        chance, now_s = self.chance(purpose), 0.0
        per_s = per_user * self.users / 86_400
        mean = sum(LOGINS_BY_HOUR) / 24
        highest = max(LOGINS_BY_HOUR) / mean if by_hour else 1.0
        while per_s > 0:
            now_s += chance.expovariate(per_s * highest)
            if now_s >= self.length_s:
                return
            hour = int(24 * now_s / self.length_s)
            if not by_hour or chance.random() * highest < LOGINS_BY_HOUR[hour] / mean:
                yield now_s


@dataclass(frozen=True, slots=True)
class Incident:
    """What is wrong at the bank from one part of the day to another."""

    name: str
    begin: float
    end: float
    faults: tuple[PlannedFault, ...] = ()


@dataclass(frozen=True, slots=True)
class Accident:
    """What happens to a server: killed and begun anew, or stopped and resumed, `for_s` later.

    `statements`: it happens when so many more of its statements have been answered.
    """

    at: float
    server: int
    is_kill: bool
    for_s: float
    statements: int


def list_incidents(plan: DayPlan) -> list[Incident]:
    """Return what goes wrong at the bank, in order."""
    if not plan.has_faults:
        return []
    outage = (PlannedFault(Fault.HANG),)
    bad = (Fault.NOT_A_NUMBER, Fault.HUGE, Fault.TWICE, Fault.OTHER_CURRENCY, Fault.EXTRA_DIGITS)
    odd = (Fault.WRONG_TYPE, Fault.EMPTY, Fault.HTML_PAGE, Fault.CUT_JSON, Fault.TRUNCATE)
    return [
        Incident("a little of everything", 0.08, 0.20, _MIXED),
        Incident("hangs", 0.20, 0.24, outage),
        Incident("dribbles", 0.30, 0.33, (PlannedFault(Fault.DRIBBLE, share=0.3, wait_s=0.5),)),
        Incident("other answers", 0.38, 0.41, tuple(PlannedFault(f, share=0.08) for f in odd)),
        Incident("rate limit", 0.45, 0.48, (PlannedFault(Fault.RATE_LIMIT, share=0.1, wait_s=5),)),
        Incident(UNREACHABLE, 0.52, 0.56),
        Incident("maintenance", 0.60, 0.63, (PlannedFault(Fault.MAINTENANCE, wait_s=60),)),
        Incident("bad values", 0.68, 0.74, tuple(PlannedFault(f, share=0.05) for f in bad)),
        Incident(SLOW, 0.78, 0.80),
        Incident("resets", 0.84, 0.88, (PlannedFault(Fault.RESET, share=0.3),)),
    ]


def list_accidents(plan: DayPlan) -> list[Accident]:
    """Return what happens to the servers, in order; never to all of them at once."""
    if not plan.has_accidents or plan.processes < 2:
        return []
    chance = plan.chance("accidents")
    kinds = [(0.12, True), (0.26, False), (0.34, False), (0.42, True), (0.50, True)]
    kinds += [(0.58, False), (0.65, False), (0.76, True), (0.82, False), (0.87, True)]
    least_s = plan.length_s * 0.02
    return [
        Accident(
            at,
            chance.randrange(plan.processes),
            is_kill,
            min(least_s, chance.choice((5.0, 20.0, 45.0, 90.0))),
            chance.randrange(1, 60),
        )
        for at, is_kill in kinds
    ]
