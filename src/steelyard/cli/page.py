"""`steelyard page`: a new address that opens the live page of a running `up`, once."""

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from steelyard.cli.options import DataDir, Json, settings_with
from steelyard.cli.outcome import CommandFailed, print_json

if TYPE_CHECKING:
    from steelyard.runtime.datafolder import ProductFolder

app = typer.Typer(add_completion=False)
_PROBE_DEADLINE_S = 3.0


@app.command(help="Print a new address of the live page; it opens once, within ten minutes.")
def page(*, data_dir: DataDir = None, wants_json: Json = False) -> None:
    """Print one address on stdout and nothing else."""
    from steelyard.access.page_sessions import CODE_LIFETIME
    from steelyard.runtime.datafolder import find_folder

    settings = settings_with(data_dir)
    folder = find_folder(settings.data_dir)
    url = find_address(folder)
    if url is None:
        raise CommandFailed(
            f"no `steelyard up` is running on {folder.path}; start it, it prints an address itself"
        )
    if settings.jwt_algorithm != "HS256":
        raise CommandFailed(
            f"tokens are signed by your own issuer with {settings.jwt_algorithm} here "
            f"(STEELYARD_JWT_ALGORITHM); open {url} and paste one of its tokens"
        )
    address = make_page_address(folder, url)
    if wants_json:
        print_json({"page": address, "expires_in_s": int(CODE_LIFETIME.total_seconds())})
    else:
        typer.echo(address)


def make_page_address(folder: "ProductFolder", url: str) -> str:
    """Return an address that opens the live page once. The code is behind `#`: no server and no log sees it.

    Raises:
        DataFolderUnusable: The code cannot be kept.
    """
    from steelyard.access.page_sessions import PageCodes
    from steelyard.runtime.clock import SystemClock

    return f"{url}/#{PageCodes(folder).make(SystemClock().now())}"


@contextlib.contextmanager
def noted_address(folder: "ProductFolder", url: str) -> Iterator[None]:
    """Note where `up` listens while inside, for commands beside it.

    Raises:
        DataFolderUnusable: It cannot be written.
    """
    from steelyard.runtime.embedded.folder import explained, write_private

    path = folder.path / "address.json"
    with explained(folder.folder):
        write_private(path, json.dumps({"url": url}) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_address(folder: "ProductFolder") -> str | None:
    """Return where the folder's `up` listens, or None where none answers."""
    import httpx2

    try:
        url = json.loads((folder.path / "address.json").read_text(encoding="utf-8"))["url"]
        answer = httpx2.get(f"{url}/livez", timeout=_PROBE_DEADLINE_S)
    except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError):
        return None
    return url if isinstance(url, str) and answer.status_code == 200 else None
