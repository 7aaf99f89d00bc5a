"""`steelyard worker`: what a server does in the background, without HTTP; any number beside the servers."""

from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, settings_with
from steelyard.cli.outcome import print_json, say
from steelyard.cli.program import Program, program_of

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False)


@app.command(help="Work in the background without HTTP: syncs, jobs and schedules.")
def worker(
    context: typer.Context,
    *,
    data_dir: DataDir = None,
    wants_uvloop: Annotated[
        bool,
        typer.Option("--uvloop/--no-uvloop", help="Use uvloop's event loop where there is one."),
    ] = True,
    wants_json: Json = False,
) -> None:
    """Work until SIGINT or SIGTERM; then end what is under way, and hand back what takes longer."""
    from steelyard.cli.serving import run_in_loop

    settings = settings_with(data_dir)
    run_in_loop(
        _work(program_of(context), settings, wants_json=wants_json), wants_uvloop=wants_uvloop
    )


async def _work(program: Program, settings: "Settings", *, wants_json: bool) -> None:
    import asyncio
    import secrets

    from steelyard.cli.reach import reach_url, with_running_redis
    from steelyard.cli.serving import WorkerEnding
    from steelyard.runtime.logs import configure_logs

    configure_logs(form=settings.log_format, level=settings.log_level)
    task = asyncio.current_task()
    assert task is not None
    ending = WorkerEnding(task)
    with ending.listening():
        try:
            async with reach_url(settings) as url:
                settings = nobody_signs_in(await with_running_redis(settings))
                secret = secrets.token_urlsafe(32)
                opened = program.open_services(settings, database_url=url, made_secret=secret)
                async with opened as services:
                    kinds = sorted(services.jobs.kinds.names)
                    if wants_json:
                        print_json({"working": True, "kinds": kinds})
                    else:
                        say(f"steelyard works in the background; kinds of jobs: {', '.join(kinds)}")
                    await asyncio.Event().wait()  # until a signal cancels it
        except asyncio.CancelledError:
            if not ending.asked:
                raise


def nobody_signs_in(settings: "Settings") -> "Settings":
    """Return the settings of a process that takes no requests: it works, and reads no keys to believe tokens with."""
    return settings.model_copy(
        update={
            "work": True,
            "jwt_algorithm": "HS256",
            "jwt_secret_file": None,
            "jwt_public_key_file": None,
            "jwt_jwks_url": None,
        }
    )
