"""Asks the server a question over a real connection: the only proof that it is up."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from steelyard.runtime.embedded.address import ServerAddress
from steelyard.runtime.embedded.binaries import Binaries
from steelyard.runtime.embedded.cluster import clean_environment
from steelyard.runtime.embedded.folder import DataFolder

ANSWER_DEADLINE_S = 10.0

_MAKE_DATABASE = """\
SELECT format('CREATE DATABASE %I', :'wanted')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'wanted') \\gexec
"""
_ASK = "SELECT 1, current_setting('data_directory'), current_setting('server_version');\n"


@dataclass(frozen=True)
class Answer:
    """What a server said: its version, or (with `version` empty) why there is no answer."""

    version: str
    problem: str

    @property
    def came(self) -> bool:
        """Whether the server of this very folder answered."""
        return bool(self.version)


def ask(
    folder: DataFolder, binaries: Binaries, address: ServerAddress, *, makes_database: bool
) -> Answer:
    """Sign in, `SELECT 1`, and check that it is this folder's server that answers.

    Args:
        folder: Whose server is meant.
        binaries: For `psql`, which runs as ourselves with the password in its environment.
        address: Where to ask.
        makes_database: Create `address.database` first, when it is missing.
    """
    script = (_MAKE_DATABASE if makes_database else "") + _ASK
    try:
        done = subprocess.run(
            [
                *(str(binaries.program("psql")), "--no-psqlrc", "--no-align", "--tuples-only"),
                *("--quiet", "--no-password", "--field-separator=\x1f"),
                *("--set=ON_ERROR_STOP=1", f"--set=wanted={address.database}"),
            ],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=ANSWER_DEADLINE_S,
            cwd="/",
            env=_environment(folder, address),
        )
    except subprocess.TimeoutExpired:
        return Answer("", f"no answer within {ANSWER_DEADLINE_S:.0f} s")
    except OSError as error:
        return Answer("", f"psql could not be started: {error}")
    if done.returncode != 0:
        return Answer("", " ".join(done.stderr.split()) or f"psql ended with {done.returncode}")
    one, _, rest = done.stdout.strip().rpartition("\n")[2].partition("\x1f")
    directory, _, version = rest.partition("\x1f")
    if one != "1" or os.path.realpath(directory) != os.path.realpath(folder.cluster):
        return Answer("", f"another server answered, whose data lies in {directory!r}")
    return Answer(version.partition(" ")[0], "")


def _environment(folder: DataFolder, address: ServerAddress) -> dict[str, str]:
    return clean_environment(folder) | {
        "PGHOST": address.host,
        "PGPORT": str(address.port),
        "PGUSER": address.user,
        "PGPASSWORD": address.password,
        "PGDATABASE": "postgres",
        "PGCONNECT_TIMEOUT": "5",
        "PGAPPNAME": "steelyard start",
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
        "PGCLIENTENCODING": "UTF8",
    }
