"""The link's figures, as metrics."""

from collections.abc import Callable

from steelyard.runtime.metrics import Reading
from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.link import RedisLink

_COUNTERS = {
    "bus_published": ("published", "Messages handed to the channel."),
    "bus_dropped": ("dropped", "Events dropped because too many waited for Redis."),
    "bus_heard": ("heard", "Hints of other processes passed on."),
    "bus_unsigned": ("unsigned", "Channel messages without a good signature; told to nobody."),
    "bus_malformed": ("malformed", "Channel messages too long or not readable."),
    "bus_expired": ("expired", "Refusals that were heard late or twice; told to nobody."),
    "cache_dropped": ("cache_dropped", "Balances dropped because too many waited for Redis."),
    "redis_failures": ("failures", "Commands and connections to Redis that failed."),
    "redis_reconnects": ("reconnects", "Subscriptions made again after one was lost."),
}
_GAUGES = {
    "bus_subscribed": (
        "is_subscribed",
        "1 while the process hears the channel; 0 without a Redis.",
    ),
    "bus_lag_seconds": ("lag_s", "Age of the newest foreign hint when it was heard."),
}


def redis_readings(link: RedisLink | None) -> list[Reading]:
    """Return what a process counts of Redis; without one everything stays 0."""
    counts = link.counts if link else RedisCounts()
    return [
        Reading(f"steelyard_{name}", text, _read(counts, field), is_counter=names is _COUNTERS)
        for names in (_COUNTERS, _GAUGES)
        for name, (field, text) in names.items()
    ]


def _read(counts: RedisCounts, field: str) -> Callable[[], float]:
    return lambda: float(getattr(counts, field))
