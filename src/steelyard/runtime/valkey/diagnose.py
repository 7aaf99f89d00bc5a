"""Looks at what cache and channel need, changes nothing, and says what to do."""

import os
from pathlib import Path

from steelyard.runtime.embedded.diagnose import Finding
from steelyard.runtime.redis.connect import LOST, RedisServer, ask_all
from steelyard.runtime.valkey.place import ValkeyFolder
from steelyard.runtime.valkey.program import ValkeyUnavailable, find_program
from steelyard.runtime.valkey.server import ANSWER_DEADLINE_S

NAME = "Redis or Valkey"


async def diagnose_redis(url: str) -> Finding:
    """Return what `steelyard doctor` shows about a server that is named: does it answer, and which one is it."""
    try:
        server = RedisServer(url)
        name = server.name
    except ValueError:
        remedy = "Percent-encode special characters of user and password"
        return Finding(NAME, False, "STEELYARD_REDIS_URL is no address", remedy)
    try:
        connection = await server.connect("doctor")
        try:
            [said] = await ask_all(connection, [("INFO", "server")], deadline_s=ANSWER_DEADLINE_S)
        finally:
            await connection.disconnect(nowait=True)
        if isinstance(said, Exception):
            raise said
    except LOST as error:
        remedy = (
            "Start it, or correct STEELYARD_REDIS_URL; until then everything works without it, but "
            "several servers find each other's changes only in the journal"
        )
        return Finding(NAME, False, f"{name} does not answer ({type(error).__name__})", remedy)
    told = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
    version = told.get("valkey_version") or told.get("redis_version") or "of unknown version"
    product = told.get("server_name", "redis").capitalize()
    return Finding(NAME, True, f"{product} {version} answers at {name}")


def diagnose_embedded_valkey(data_dir: Path) -> Finding:
    """Return what `steelyard doctor` shows about the embedded one; starts nothing."""
    try:
        program = find_program()
    except ValkeyUnavailable as reason:
        return Finding(
            NAME, True, f"none: {reason}; cache and channel stay inside the process of `up`"
        )
    folder = ValkeyFolder(Path(os.path.abspath(data_dir)) / "valkey")
    where = (
        f"on {folder.socket}"
        if folder.fits_socket
        else "on 127.0.0.1 with a password: the path is too long for a socket"
    )
    return Finding(NAME, True, f"Valkey {program.version}; `steelyard up` runs it {where}")
