"""How often syncs of one user may be asked for: generous, and bounded in every process."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from steelyard.core.clock import Clock
from steelyard.core.errors import Retry, SteelyardError
from steelyard.core.ids import TenantId, UserId

RATE_PER_S: Final = 1.0
BURST: Final = 30.0
USERS_MAX: Final = 50_000


class TooManySyncs(SteelyardError):
    """Syncs of one user were asked for too often; this one was not taken."""

    code = "rate_limited"
    retry = Retry.LATER

    def __init__(self, *, user: UserId, retry_after_s: float) -> None:
        self.user, self.retry_after_s = user, retry_after_s
        super().__init__(
            f"syncs of user {user} were asked for too often; try again in {math.ceil(retry_after_s)} s"
        )


@dataclass(slots=True)
class RequestLimit:
    """A bucket of 30 per user, refilled one a second. The users seen longest ago are forgotten first: theirs is full."""

    clock: Clock
    _left: OrderedDict[tuple[TenantId, UserId], tuple[float, float]] = field(
        default_factory=OrderedDict
    )

    def check(self, tenant: TenantId, user: UserId) -> None:
        """Count one request.

        Raises:
            TooManySyncs: The user's bucket is empty.
        """
        now_s = self.clock.monotonic_s()
        left, at_s = self._left.pop((tenant, user), (BURST, now_s))
        left = min(BURST, left + (now_s - at_s) * RATE_PER_S)
        if left >= 1:
            self._left[tenant, user] = (left - 1, now_s)
        else:
            self._left[tenant, user] = (left, now_s)
        while len(self._left) > USERS_MAX:
            self._left.popitem(last=False)
        if left < 1:
            raise TooManySyncs(user=user, retry_after_s=max(1.0, (1 - left) / RATE_PER_S))
