"""`python -m steelyard`: the same as the `steelyard` command. Hands the application to the commands below it."""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from steelyard.cli.main import run

if TYPE_CHECKING:
    from steelyard.cli.program import Program


def load_program() -> "Program":
    """Import the application when a command asks for it."""
    return cast("Program", import_module("steelyard.app"))


def main() -> None:
    """Run the command with the arguments of the process; ends the process with its exit code."""
    run(load_program)


if __name__ == "__main__":
    main()
