"""Options that several commands share, and the settings they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Data folder; STEELYARD_DATA_DIR, or ./.steelyard.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; errors too, on stderr.")]
TenantName = Annotated[str, typer.Option("--tenant", help="Tenant to work for.")]


def settings_with(data_dir: Path | None = None, **options: object) -> "Settings":
    """Return the settings of the environment with the options of the command line over them.

    Raises:
        pydantic.ValidationError: A value is not acceptable.
    """
    from steelyard.runtime.settings import load_settings

    given = {name: value for name, value in options.items() if value is not None}
    if data_dir is not None:
        given["data_dir"] = data_dir
    return load_settings().model_copy(update=given)
