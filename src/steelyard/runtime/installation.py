"""What tells this installation from every other: its key, made with its database."""

from steelyard.runtime.database import Database


async def read_signing_key(database: Database) -> bytes:
    """Return the 32 bytes that sign hints between processes of this installation.

    Raises:
        DatabaseUnavailable: The database did not answer.
    """
    return bytes(await database.fetchval("SELECT signing_key FROM steelyard.installation"))
