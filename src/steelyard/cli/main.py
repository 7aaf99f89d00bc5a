"""The `steelyard` command."""

from typing import Annotated

import typer

from steelyard import __version__

app = typer.Typer(
    name="steelyard", no_args_is_help=True, help="Money balances that are true and live."
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steelyard {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Money balances that are true and live."""


def run() -> None:
    """Run the command with the arguments of the process; ends the process with its exit code."""
    app(prog_name="steelyard")
