"""The embedded Valkey of `steelyard up`: found, started, watched and stopped by us alone; nothing is kept in it."""

from steelyard.runtime.valkey.program import ValkeyProgram, ValkeyUnavailable, find_program
from steelyard.runtime.valkey.server import ValkeyServer, find_running_valkey, start_valkey
from steelyard.runtime.valkey.watch import EmbeddedValkey, embedded_valkey

__all__ = [
    "EmbeddedValkey",
    "ValkeyProgram",
    "ValkeyServer",
    "ValkeyUnavailable",
    "embedded_valkey",
    "find_program",
    "find_running_valkey",
    "start_valkey",
]
