"""Where a server listens and how to sign in."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

ROOT_ROLE = "steelyard_root"
DATABASE = "steelyard"


@dataclass(frozen=True)
class ServerAddress:
    """One PostgreSQL database: `host` is a name, an IP address, or a socket folder (`/…`)."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str

    @property
    def is_socket(self) -> bool:
        """Whether `host` is the folder of a Unix socket."""
        return self.host.startswith("/")

    def url(self) -> str:
        """Return the `postgresql://` address, password included, as asyncpg and libpq read it."""
        sign_in = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        database = quote(self.database, safe="")
        if self.is_socket:
            where = urlencode({"host": self.host, "port": self.port}, quote_via=quote)
            return f"postgresql://{sign_in}@/{database}?{where}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{sign_in}@{host}:{self.port}/{database}"


def address_of_root(host: str, port: int, password: str) -> ServerAddress:
    """Return the address of the product's database for the superuser of the embedded server."""
    return ServerAddress(host, port, ROOT_ROLE, password, DATABASE)
