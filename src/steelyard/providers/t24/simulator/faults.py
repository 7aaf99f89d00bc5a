"""What goes wrong at a bank, and how often; drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from steelyard.core.errors import InvalidInput


class Fault(StrEnum):
    """One way to fail. The last group answers a document whose values cannot be believed."""

    RESET = "reset"
    HANG = "hang"
    SLOW = "slow"
    DRIBBLE = "dribble"
    TRUNCATE = "truncate"
    CUT_JSON = "cut_json"
    WRONG_TYPE = "wrong_type"
    COMPRESSED = "compressed"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    HTML_PAGE = "html_page"
    REDIRECT = "redirect"
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"
    STATUS_418 = "status_418"
    RATE_LIMIT = "rate_limit"
    UNAUTHORISED = "unauthorised"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    MAINTENANCE = "maintenance"

    NOT_A_NUMBER = "not_a_number"
    NEGATIVE_ZERO = "negative_zero"
    EXPONENT = "exponent"
    SEPARATORS = "separators"
    EXTRA_DIGITS = "extra_digits"
    HUGE = "huge"
    NO_VALUE = "no_value"
    TWICE = "twice"
    OTHER_CURRENCY = "other_currency"
    OTHER_ACCOUNT = "other_account"


BAD_VALUES = frozenset(list(Fault)[list(Fault).index(Fault.NOT_A_NUMBER) :])


@dataclass(slots=True)
class PlannedFault:
    """A fault and whom it meets.

    Args:
        fault: What happens.
        share: Of the requests it is about, 0 to 1.
        accounts: Numbers it is about; None: all.
        times: How often at most; None: until it is cleared.
        wait_s: What `Retry-After` says, how long `slow` waits, or the gap between two bytes of `dribble`.
        for_s: How long, from when it is planned; None: until it is cleared.
        until_s: The moment of the bank's clock it ends at; the plan notes it.
    """

    fault: Fault
    share: float = 1.0
    accounts: frozenset[str] | None = None
    times: int | None = None
    wait_s: float = 1.0
    for_s: float | None = None
    until_s: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InvalidInput(field="share", problem="it is from 0 to 1")
        if self.for_s is not None and not 0 < self.for_s < 1e9:
            raise InvalidInput(field="for_s", problem="it is above 0 and finite")
        if not 0 <= self.wait_s < 1e9 or (self.times is not None and self.times < 0):
            raise InvalidInput(
                field="fault", problem="times and wait_s are not below 0, and finite"
            )


@dataclass(slots=True)
class FaultPlan:
    """Faults in the order they are tried; a request meets the first that falls on it.

    Args:
        now_s: Seconds of the bank's clock.
    """

    now_s: Callable[[], float]
    planned: list[PlannedFault] = field(default_factory=list)

    def add(self, fault: PlannedFault) -> None:
        """Plan one more."""
        if fault.for_s is not None:
            fault.until_s = self.now_s() + fault.for_s
        self.planned.append(fault)

    def clear(self) -> None:
        """Let everything go well again."""
        self.planned.clear()

    def list_current(self) -> list[PlannedFault]:
        """Return those that can still meet somebody; those that are over are forgotten."""
        now_s = self.now_s()
        over = [
            one
            for one in self.planned
            if one.times == 0 or (one.until_s is not None and one.until_s <= now_s)
        ]
        for one in over:
            self.planned.remove(one)
        return list(self.planned)

    def draw(self, chance: Random, numbers: frozenset[str]) -> PlannedFault | None:
        """Return the fault that meets a request about these accounts, or None."""
        for one in self.list_current():
            is_about = one.accounts is None or not one.accounts.isdisjoint(numbers)
            if is_about and chance.random() < one.share:
                if one.times is not None:
                    one.times -= 1
                return one
        return None


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the bank thinks: most near `median_s`, few much longer, none over `longest_s`."""

    median_s: float
    spread: float
    longest_s: float

    def draw_s(self, chance: Random) -> float:
        """Return seconds for one request."""
        if self.median_s == 0:
            return 0.0
        return min(self.median_s * chance.lognormvariate(0.0, self.spread), self.longest_s)


LATENCIES = {
    "none": Latency(0.0, 0.0, 0.0),
    "quick": Latency(0.02, 0.4, 0.5),
    "busy": Latency(0.25, 0.8, 5.0),
    "closing": Latency(2.5, 0.7, 30.0),
}
"""By name; `closing` is the nightly close of business."""
