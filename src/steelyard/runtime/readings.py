"""What `/metrics` tells of a process: the database's pool, the relay, the bus, and its ledger's queue and batches."""

from collections.abc import Callable
from typing import Final, Protocol

from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.database import Database
from steelyard.runtime.metrics import Reading
from steelyard.runtime.relay import Relay

_LEDGER_COUNTERS: Final = {
    "batches": "Batches committed.",
    "requests": "Orders in those batches.",
    "posted": "Orders that took effect.",
    "replayed": "Orders whose key had been used for the same.",
    "refused": "Orders refused.",
    "bisections": "Batches split to find one bad order.",
    "races": "Batches repeated because of another process.",
    "set_aside": "Orders that waited for somebody's lock apart.",
    "reconnects": "Connections lost while committing.",
    "unforeseen": "Batches ended by an error nobody foresaw; each is logged.",
}


class LedgerCounts(Protocol):
    """What the ledger counts, beside the counters by name."""

    @property
    def largest_batch(self) -> int: ...


class LedgerQueue(Protocol):
    """What is asked of the group commit."""

    @property
    def counts(self) -> LedgerCounts: ...
    @property
    def queue_length(self) -> int: ...


class HoldsExpired(Protocol):
    """What is asked of the sweeper of holds."""

    @property
    def expired(self) -> int: ...


def runtime_readings(database: Database, relay: Relay, bus: InProcessBus) -> list[Reading]:
    """Return the gauges of what this process runs on."""
    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("database_in_use", "Connections out.", lambda: database.in_use),
        ("relay_published", "Changes the relay published.", lambda: relay.published),
        ("bus_failures", "Listeners that raised.", lambda: bus.failures),
    )
    return [Reading(f"steelyard_{name}", text, read) for name, text, read in gauges]


def ledger_readings(commit: LedgerQueue, sweeper: HoldsExpired) -> list[Reading]:
    """Return the gauges and counters of this process's ledger."""
    counts = commit.counts
    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("ledger_queue", "Orders that wait for a commit.", lambda: commit.queue_length),
        ("ledger_largest_batch", "Largest batch so far.", lambda: counts.largest_batch),
        ("holds_expired", "Holds this process expired.", lambda: sweeper.expired),
    )
    return [
        *(Reading(f"steelyard_{name}", text, read) for name, text, read in gauges),
        *(
            Reading(f"steelyard_ledger_{name}", text, _count(counts, name), is_counter=True)
            for name, text in _LEDGER_COUNTERS.items()
        ),
    ]


def _count(counts: object, name: str) -> Callable[[], float]:
    return lambda: float(getattr(counts, name))
