"""`steelyard openapi`: the OpenAPI document of this release."""

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import print_json
from steelyard.cli.program import program_of

app = typer.Typer(add_completion=False)


@app.command(help="Print the OpenAPI document (JSON) of this release.")
def openapi(context: typer.Context, wants_json: Json = True) -> None:
    """Print the document; it is JSON with and without --json."""
    del wants_json
    print_json(program_of(context).openapi_document())
