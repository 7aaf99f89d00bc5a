"""The settings the server runs with: given on its command line, so that no file can weaken them."""

from __future__ import annotations

from steelyard.runtime.embedded.folder import DataFolder

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 5432
SOCKET_PATH_BYTES_MAX = 99

_SETTINGS = {
    # nothing acknowledged is lost
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # short recovery: at most this much log is replayed after a crash, give or take a checkpoint
    "max_wal_size": "256MB",
    "min_wal_size": "80MB",
    "shared_buffers": "256MB",
    "max_connections": "100",
    "jit": "off",
    "idle_in_transaction_session_timeout": "60s",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
    "TimeZone": "UTC",
    # the log: no statements and no rows, for they hold people's data
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_checkpoints": "off",
    "log_startup_progress_interval": "1s",
    "lc_messages": "C",
}

SIGN_IN_RULES = """\
# Written by steelyard at every start: a password everywhere, no other way in.
local all all                scram-sha-256
host  all all 127.0.0.1/32   scram-sha-256
"""


def list_flags(folder: DataFolder, *, host: str, port: int) -> list[str]:
    """Return `-c` flags for a server on the socket folder or the loopback address `host`."""
    on_socket = host.startswith("/")
    quoted = '"' + host.replace('"', '""') + '"'
    settings = _SETTINGS | {
        "listen_addresses": "" if on_socket else host,
        "unix_socket_directories": quoted if on_socket else "",
        "port": str(port),
        "hba_file": str(folder.cluster / "pg_hba.conf"),
    }
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def fits_socket(folder: DataFolder) -> bool:
    """Whether a Unix socket in the data folder has a path that every client can name."""
    path = str(folder.run / f".s.PGSQL.{DEFAULT_PORT}")
    return len(path.encode()) <= SOCKET_PATH_BYTES_MAX and not set(path) & set(',"\\')
