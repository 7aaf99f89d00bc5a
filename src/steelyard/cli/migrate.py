"""`steelyard migrate`: makes a database ready for this release."""

import asyncio
import secrets
from typing import Annotated

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import say, show

app = typer.Typer(add_completion=False)

PASSWORD_SETTING = "STEELYARD_APP_PASSWORD"


@app.command(help="Create roles and schema, and bring the schema to this release.")
def migrate(
    *,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="STEELYARD_ADMIN_DATABASE_URL",
            help="Connects as a superuser, or as the database's owner with CREATEROLE.",
            show_envvar=True,
        ),
    ],
    login: Annotated[
        str,
        typer.Option("--login", help="Role that the product logs in as; made if it is missing."),
    ] = "steelyard_server",
    password: Annotated[
        str | None,
        typer.Option(
            "--password",
            envvar=PASSWORD_SETTING,
            help="Password of that role; a random one is made and printed if not given.",
            show_envvar=True,
        ),
    ] = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    wants_json: Json = False,
) -> None:
    """Prepare one database."""
    if is_dry_run:
        pending = asyncio.run(_list_pending(url))
        show(
            {"pending": pending},
            wants_json=wants_json,
            as_text=lambda: typer.echo("\n".join(pending) if pending else "nothing is pending"),
        )
        return
    made = asyncio.run(_migrate(url, login, password or secrets.token_urlsafe(32)))
    if password is not None:
        made["app_url"] = str(made["app_url"]).replace(password, "********")
    show(made, wants_json=wants_json, as_text=lambda: _tell(made, is_new=password is None))


def _tell(made: dict[str, object], *, is_new: bool) -> None:
    say(f"the schema is at revision {made['revision']}")
    if is_new:
        say(
            "the product logs in with this address (STEELYARD_DATABASE_URL); its password is shown only now:"
        )
    typer.echo(str(made["app_url"]))


async def _list_pending(url: str) -> list[str]:
    from steelyard.cli.reach import explained_as
    from steelyard.runtime.migrate import find_revision, list_revisions

    with explained_as("the database at --url"):
        found = await find_revision(url)
    pending = [one for one in list_revisions() if found is None or one > found]
    return pending if found is not None else ["roles, schema and login role", *pending]


async def _migrate(url: str, login: str, password: str) -> dict[str, object]:
    from steelyard.cli.reach import explained_as
    from steelyard.runtime.provision import prepare_database

    with explained_as("the database at --url"):
        made = await prepare_database(
            url, login=login, password=password, report=lambda line: say(f"  {line}")
        )
    return {
        "revision": made.revision,
        "login": login,
        "app_url": made.app_url,
    }
