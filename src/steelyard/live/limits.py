"""How much one user may ask for: token buckets and the figures the gateway is opened with.

The `limits` library has windows but no token bucket, and its memory storage starts a thread; both buckets here
are two floats.
"""

from dataclasses import dataclass, field

from steelyard.core.clock import Clock

FRAME_BYTES_MAX = 16_384
"""The largest frame a client may send."""

COMPLAINTS_MAX = 10
"""Malformed frames or unknown events in a row, then the session ends."""

REFUSALS_MAX = 50
"""Messages beyond the rate in a row, then the session ends."""

BUCKETS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """What the gateway takes on; one row each in docs/reference/settings.md."""

    connections: int = 10_000
    """Sessions of this process."""
    connections_per_user: int = 10
    accounts: int = 20
    """Accounts of one session."""
    messages: int = 20
    """Client messages of one user at once …"""
    messages_per_s: float = 5.0
    """… and from then on."""
    updates: int = 20
    """`balance_updated` of one account to one session at once …"""
    updates_per_s: float = 10.0
    """… and from then on."""
    sweep_interval_s: float = 1.0
    heartbeat_s: float = 25.0


@dataclass(slots=True)
class Bucket:
    """Fills with `per_s` tokens a second up to `burst`; each act takes one. Begins full."""

    burst: float
    per_s: float
    _level: float = -1.0
    _as_of_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Take one token and return 0, or take none and return how long until there is one."""
        if self._level < 0:
            self._level, self._as_of_s = self.burst, now_s
        level = min(self.burst, self._level + max(0.0, now_s - self._as_of_s) * self.per_s)
        self._as_of_s = now_s
        if level >= 1.0:
            self._level = level - 1.0
            return 0.0
        self._level = level
        return (1.0 - level) / self.per_s

    def is_full(self, now_s: float) -> bool:
        """Say whether nothing was taken lately."""
        return self._level < 0 or self._level + (now_s - self._as_of_s) * self.per_s >= self.burst


@dataclass(slots=True)
class MessageLimit:
    """Counts client messages per user, over all of the user's sessions."""

    limits: LiveLimits
    clock: Clock
    _buckets: dict[object, Bucket] = field(default_factory=dict)

    def wait_s(self, user: object) -> float:
        """Let one message pass and return 0, or refuse it and return how long to wait."""
        found = self._buckets.get(user)
        if found is None:
            if len(self._buckets) >= BUCKETS_MAX:
                self._buckets.clear()  # then somebody may say a little more
            found = Bucket(self.limits.messages, self.limits.messages_per_s)
            self._buckets[user] = found
        return found.wait_s(self.clock.monotonic_s())

    def forget(self, user: object) -> None:
        """Forget a user whose bucket is full again, when its last session has ended."""
        found = self._buckets.get(user)
        if found is not None and found.is_full(self.clock.monotonic_s()):
            del self._buckets[user]
