"""`steelyard up`: everything in one process, with an embedded PostgreSQL unless a server is named."""

from typing import Annotated

import typer

from steelyard.cli.options import DataDir, Json, settings_with
from steelyard.cli.program import program_of

app = typer.Typer(add_completion=False)


@app.command(
    help="Start everything in one process: PostgreSQL, the API, the live page, and a month of real demo data."
)
def up(
    context: typer.Context,
    *,
    data_dir: DataDir = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port; 3000 or the next free one if not given."
        ),
    ] = None,
    wants_demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="Load a month of real card purchases; done once on a fresh data folder.",
            show_default=False,
        ),
    ] = None,
    wants_replay: Annotated[
        bool,
        typer.Option(
            "--replay/--no-replay",
            help="Replay the demo's month for cards that somebody watches on the live page.",
        ),
    ] = True,
    wants_json_logs: Annotated[
        bool,
        typer.Option("--json-logs", help="Write steps and logs as JSON lines, each request too."),
    ] = False,
    wants_uvloop: Annotated[
        bool,
        typer.Option("--uvloop/--no-uvloop", help="Use uvloop's event loop where there is one."),
    ] = True,
    wants_json: Json = False,
) -> None:
    """Run until SIGINT or SIGTERM; the data stays."""
    from steelyard.cli.run_up import UpOptions, run_up
    from steelyard.cli.serving import run_in_loop

    settings = settings_with(data_dir, host=host, port=port)
    if wants_json_logs:
        settings = settings.model_copy(update={"log_format": "json"})
    elif "log_format" not in settings.model_fields_set:
        # On a screen a line for each request would hide everything else.
        quiet = {"log_format": "console"}
        if "log_level" not in settings.model_fields_set:
            quiet["log_level"] = "warning"
        settings = settings.model_copy(update=quiet)
    options = UpOptions(
        settings,
        wants_demo=wants_demo,
        wants_replay=wants_replay,
        wants_json=wants_json,
        wants_json_logs=wants_json_logs,
    )
    run_in_loop(run_up(lambda: program_of(context), options), wants_uvloop=wants_uvloop)
