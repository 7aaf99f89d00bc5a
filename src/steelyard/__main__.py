"""`python -m steelyard`: the same as the `steelyard` command."""

from steelyard.cli.main import run

if __name__ == "__main__":
    run()
