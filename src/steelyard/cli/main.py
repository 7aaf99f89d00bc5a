"""The `steelyard` command: finds the command's module when it is asked for, and ends with its code."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from steelyard import __version__

if TYPE_CHECKING:
    from steelyard.cli.program import LoadProgram

# Command -> module with a `typer.Typer` named `app`. Nothing of it is imported before it is asked for.
COMMANDS = {
    "up": "steelyard.cli.up",
    "serve": "steelyard.cli.serve",
    "worker": "steelyard.cli.worker",
    "migrate": "steelyard.cli.migrate",
    "token": "steelyard.cli.token",
    "page": "steelyard.cli.page",
    "tenant": "steelyard.cli.tenant",
    "user": "steelyard.cli.user",
    "key": "steelyard.cli.key",
    "import": "steelyard.cli.import_file",
    "sync": "steelyard.cli.sync",
    "schedule": "steelyard.cli.schedule",
    "jobs": "steelyard.cli.jobs",
    "verify": "steelyard.cli.verify",
    "simulate": "steelyard.cli.simulate",
    "doctor": "steelyard.cli.doctor",
    "config": "steelyard.cli.config",
    "openapi": "steelyard.cli.openapi",
    "bench": "steelyard.cli.bench",
}
ALIASES = {"balance:verify-sync": "verify"}


class Commands(TyperGroup):
    """Commands by name, each imported at its first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names shown in the help, in order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a command, or None where there is none of this name."""
        name = ALIASES.get(cmd_name, cmd_name)
        module = COMMANDS.get(name)
        if module is None:
            return None
        command = typer.main.get_command(import_module(module).app)
        command.name = name
        return command


app = typer.Typer(
    name="steelyard",
    cls=Commands,
    add_completion=False,
    help="Money balances that are true and live.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"steelyard {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Money balances that are true and live."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(load_program: "LoadProgram") -> None:
    """Run the command with the arguments of the process; ends the process with its exit code."""
    sys.exit(main(sys.argv[1:], load_program))


def main(arguments: list[str], load_program: "LoadProgram") -> int:
    """Run one command.

    Args:
        arguments: Without the program's name.
        load_program: Imports the application, for the commands that serve it.
    Returns:
        Its exit code: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 provider down,
        6 discrepancies remain, 130 interrupted.
    """
    try:
        ended_with = app(arguments, prog_name="steelyard", standalone_mode=False, obj=load_program)
        return ended_with if isinstance(ended_with, int) else 0
    except BrokenPipeError:
        return _end_quietly()
    except (TyperException, typer.Abort, KeyboardInterrupt) as error:
        from steelyard.cli.outcome import explain_usage

        return explain_usage(error, wants_json="--json" in arguments)
    # The process edge: a person sees a sentence and a code, never a traceback.
    except Exception as error:
        from steelyard.cli.outcome import explain_failure

        return explain_failure(error, wants_json="--json" in arguments)


def _end_quietly() -> int:
    """Whoever read our output has gone; that is no error of ours, and there is nobody to tell."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
