"""`steelyard serve`: the server alone, on a PostgreSQL of your own; one of several."""

from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import Json, settings_with
from steelyard.cli.outcome import CommandFailed, print_json, say
from steelyard.cli.program import Program, program_of

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False)


@app.command(help="Serve the API on the PostgreSQL in STEELYARD_DATABASE_URL.")
def serve(
    context: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port; 3000 or the next free one if not given."
        ),
    ] = None,
    wants_uvloop: Annotated[
        bool,
        typer.Option("--uvloop/--no-uvloop", help="Use uvloop's event loop where there is one."),
    ] = True,
    wants_json: Json = False,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    from steelyard.cli.serving import run_in_loop

    settings = settings_with(host=host, port=port)
    check_settings(settings)
    run_in_loop(
        _serve(program_of(context), settings, wants_json=wants_json), wants_uvloop=wants_uvloop
    )


def check_settings(settings: "Settings") -> None:
    """Refuse to serve without a database, or with tokens that could be meant for somebody else.

    Raises:
        CommandFailed: STEELYARD_DATABASE_URL is not set.
        UnsafeSettings: `iss` or `aud` is not configured.
    """
    from steelyard.access.open_authenticator import read_token_rules
    from steelyard.access.tokens import check_names_issuer_and_audience

    if settings.database_url is None:
        raise CommandFailed(
            "`serve` needs STEELYARD_DATABASE_URL; `steelyard migrate` prints one, and `steelyard up` "
            "runs everything on its own"
        )
    check_names_issuer_and_audience(read_token_rules(settings))


async def _serve(program: Program, settings: "Settings", *, wants_json: bool) -> None:
    import asyncio

    from steelyard.cli.listen import listen_on, port_of, take_port
    from steelyard.cli.reach import check_schema
    from steelyard.cli.serving import Ending, server_for
    from steelyard.runtime.logs import configure_logs

    assert settings.database_url is not None, "checked before"
    configure_logs(form=settings.log_format, level=settings.log_level)
    task = asyncio.current_task()
    assert task is not None
    ending = Ending(task)
    with ending.listening(), take_port(settings.host, settings.port) as bound:
        try:
            await check_schema(settings.database_url.get_secret_value())
            application = program.create_app(settings)
            async with application.router.lifespan_context(application):
                server = ending.server = server_for(application, program.server_options(settings))
                listen_on(bound)
                url = f"http://{settings.host}:{port_of(bound)}"
                if wants_json:
                    print_json({"url": url})
                else:
                    say(f"steelyard serves at {url}")
                await server.serve(sockets=[bound])
        except asyncio.CancelledError:
            if not ending.asked:
                raise
