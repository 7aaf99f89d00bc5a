"""Time zones by their IANA names: the machine's own table, or the one that comes with the package `tzdata`."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from steelyard.core.errors import InvalidInput

# Files of some machines' tables that are no zones: whatever this machine is set to, other ways of writing the same.
_NO_ZONES = ("localtime", "posixrules", "posix/", "right/", "Factory")


def find_zone(name: str, *, field: str) -> ZoneInfo:
    """Return a zone.

    Args:
        name: As in `Africa/Lusaka`.
        field: What the name was given as.
    Raises:
        InvalidInput: There is no such zone.
    """
    try:
        if name.startswith(_NO_ZONES):
            raise ValueError(name)
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(field=field, problem=f"{name[:60]!r} is no IANA time zone") from error
