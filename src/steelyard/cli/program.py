"""What the commands need of the application, which stands above them and is handed in by the process."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, cast

import typer

if TYPE_CHECKING:
    from steelyard.access.page_sessions import PageSessions
    from steelyard.jobs.model import Kinds
    from steelyard.runtime.database import Database
    from steelyard.runtime.settings import Settings


class Program(Protocol):
    """The application's module."""

    def create_app(
        self,
        settings: "Settings",
        *,
        database_url: str | None = None,
        made_secret: str | None = None,
        page_sessions: "PageSessions | None" = None,
    ) -> Any:
        """Build the application; its lifespan opens and closes the services."""
        ...

    def open_services(
        self,
        settings: "Settings",
        *,
        database_url: str | None = None,
        made_secret: str | None = None,
    ) -> AbstractAsyncContextManager[Any]:
        """Open what a process works with, without HTTP."""
        ...

    def server_options(self, settings: "Settings") -> dict[str, Any]:
        """Return what the server is given beside the application."""
        ...

    def known_kinds(self, settings: "Settings", database: "Database") -> "Kinds":
        """Return the kinds of jobs of this release, for commands that ask for some."""
        ...

    def openapi_document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        ...


LoadProgram = Callable[[], Program]
"""Imports the application, which takes most of a second: only commands that serve ask for it."""


def program_of(context: typer.Context) -> Program:
    """Return the application that the process was started with."""
    return cast(LoadProgram, context.obj)()
