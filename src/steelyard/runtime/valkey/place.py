"""Where the embedded Valkey lives in the data folder, and the settings it runs with."""

import secrets
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

SOCKET_PATH_BYTES_MAX = 100
LOOPBACK = "127.0.0.1"
MEMORY_MAX = "64mb"
_UNQUOTABLE = set('"\\\n\r')


@dataclass(frozen=True, slots=True)
class ValkeyFolder:
    """`valkey/` in the data folder, 0700."""

    path: Path

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.path / "valkey.sock"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.path / "valkey.log"

    @property
    def lock(self) -> Path:
        """File whose lock is the right to run one here."""
        return self.path / "valkey.lock"

    @property
    def pid(self) -> Path:
        """File with its process number: a hint, never a proof."""
        return self.path / "valkey.pid"

    @property
    def fits_socket(self) -> bool:
        """Whether every client can name the socket's path."""
        path = str(self.socket)
        return len(path.encode()) <= SOCKET_PATH_BYTES_MAX and not set(path) & _UNQUOTABLE


@dataclass(frozen=True, slots=True)
class Listening:
    """The one place where a server listens: a socket, or a port of the loopback address with a password."""

    socket: Path | None
    port: int = 0
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The address for clients, password included."""
        if self.socket is not None:
            return f"unix://{quote(str(self.socket))}"
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    @property
    def name(self) -> str:
        """The address for people."""
        return str(self.socket) if self.socket is not None else f"{LOOPBACK}:{self.port}"


def choose_place(folder: ValkeyFolder) -> Listening:
    """Return the socket in the folder, or, where its path is too long, a free port and a new password."""
    if folder.fits_socket:
        return Listening(folder.socket)
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = int(probe.getsockname()[1])
    return Listening(None, port, secrets.token_urlsafe(32))


def settings_for(place: Listening) -> str:
    """Return the settings; they are given on standard input, so that a password stands in no list of processes."""
    settings = {
        "port": str(place.port),
        "bind": LOOPBACK,
        "save": '""',
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": MEMORY_MAX,
        "maxmemory-policy": "allkeys-lru",
        "maxclients": "1000",
        "databases": "1",
        "loglevel": "warning",
        "set-proc-title": "no",
    }
    if place.socket is not None:
        settings |= {"unixsocket": f'"{place.socket}"', "unixsocketperm": "700"}
    else:
        settings["requirepass"] = place.password
    return "".join(f"{name} {value}\n" for name, value in settings.items())
