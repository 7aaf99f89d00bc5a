"""The embedded PostgreSQL: found, made, started, adopted, watched and stopped by us alone."""

from steelyard.runtime.embedded.address import ServerAddress
from steelyard.runtime.embedded.binaries import (
    WHEEL_SETTING,
    Binaries,
    find_binaries,
    list_binaries,
)
from steelyard.runtime.embedded.errors import EmbeddedPostgresError
from steelyard.runtime.embedded.folder import trim_log
from steelyard.runtime.embedded.server import (
    EmbeddedServer,
    is_server_running,
    stop_embedded_postgres,
)
from steelyard.runtime.embedded.start import (
    find_running_postgres,
    restart_embedded_postgres,
    start_embedded_postgres,
)

__all__ = [
    "WHEEL_SETTING",
    "Binaries",
    "EmbeddedPostgresError",
    "EmbeddedServer",
    "ServerAddress",
    "find_binaries",
    "find_running_postgres",
    "is_server_running",
    "list_binaries",
    "restart_embedded_postgres",
    "start_embedded_postgres",
    "stop_embedded_postgres",
    "trim_log",
]
