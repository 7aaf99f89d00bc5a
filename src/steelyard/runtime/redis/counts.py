"""What the link to Redis counts, for metrics; all zero where there is none."""

from dataclasses import dataclass


@dataclass(slots=True)
class RedisCounts:
    """What happened so far."""

    published: int = 0
    """Messages handed to the channel."""
    dropped: int = 0
    """Events that found the queue full and pushed out the oldest."""
    cache_dropped: int = 0
    """Balances for which there was no room to wait."""
    failures: int = 0
    """Commands and connections that failed or took too long."""
    reconnects: int = 0
    """Subscriptions made again after one was lost."""
    heard: int = 0
    """Hints of other processes that were passed on."""
    unsigned: int = 0
    """Messages without a good signature."""
    malformed: int = 0
    """Messages that were too long, or signed and yet not readable."""
    expired: int = 0
    """Refusals that came late or twice."""
    is_subscribed: bool = False
    lag_s: float = 0.0
    """Age of the newest foreign hint when it was heard."""
