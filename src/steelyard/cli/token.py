"""`steelyard token`: a signed token for a user, from the data folder's secret."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard.cli.options import DataDir, Json, TenantName, settings_with
from steelyard.cli.outcome import CommandFailed, print_json

if TYPE_CHECKING:
    from steelyard.runtime.settings import Settings

app = typer.Typer(add_completion=False)


@app.command(help="Print a token for a user, signed with the data folder's secret.")
def token(
    *,
    user: Annotated[
        str, typer.Option("--user", help="Who it is for: the token's `sub`.")
    ] = "admin",
    role: Annotated[str, typer.Option("--role", help="user, operator, admin or service.")] = "user",
    tenant: TenantName = "default",
    ttl_s: Annotated[
        int, typer.Option("--ttl", min=1, max=366 * 86_400, help="Seconds it lasts.")
    ] = 3600,
    data_dir: DataDir = None,
    wants_json: Json = False,
) -> None:
    """Print one token on stdout and nothing else."""
    settings = settings_with(data_dir)
    text = make_token(
        settings, user=user, role=role, tenant=tenant, lifetime=timedelta(seconds=ttl_s)
    )
    if wants_json:
        print_json(
            {"token": text, "user": user, "role": role, "tenant": tenant, "expires_in_s": ttl_s}
        )
    else:
        typer.echo(text)


def make_token(
    settings: "Settings", *, user: str, role: str, tenant: str, lifetime: timedelta
) -> str:
    """Return a token that this data folder's server believes.

    Raises:
        DataFolderMissing: The folder was never started.
        InvalidInput: User, role or tenant is not acceptable.
        CommandFailed: Tokens are signed by somebody else's key here.
    """
    from steelyard.access.model import Role
    from steelyard.access.open_authenticator import read_signing_secret, read_token_rules
    from steelyard.access.tokens import TokenOrder, issue_token
    from steelyard.core.errors import InvalidInput
    from steelyard.core.ids import parse_tenant_id, parse_user_id
    from steelyard.runtime.clock import SystemClock
    from steelyard.runtime.datafolder import Secret, find_folder, read_secret

    if settings.jwt_algorithm != "HS256":
        raise CommandFailed(
            f"tokens are signed by your own issuer with {settings.jwt_algorithm} here "
            "(STEELYARD_JWT_ALGORITHM); ask it for one"
        )
    if role not in list(Role):
        raise InvalidInput(field="role", problem=f"{role[:20]!r} is none of {', '.join(Role)}")
    order = TokenOrder(parse_tenant_id(tenant), parse_user_id(user), Role(role), lifetime)
    made = (
        None
        if settings.jwt_secret_file is not None
        else read_secret(find_folder(settings.data_dir), Secret.JWT)
    )
    key = read_signing_secret(settings, made)
    return issue_token(order, rules=read_token_rules(settings), key=key, now=SystemClock().now())
