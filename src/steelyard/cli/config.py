"""`steelyard config`: every setting, its value and where it came from."""

import os

import typer

from steelyard.cli.options import Json
from steelyard.cli.outcome import print_table, show

app = typer.Typer(add_completion=False)

# Read from the environment where they are needed, outside the settings type.
OTHER_NAMES = {
    "STEELYARD_POSTGRES_WHEEL": "Package or folder that the embedded PostgreSQL's programs come from.",
}


@app.command(help="Show every setting, its value (secrets hidden) and where it came from.")
def config(wants_json: Json = False) -> None:
    """Print the settings of this environment."""
    rows = list_settings()
    show(
        rows,
        wants_json=wants_json,
        as_text=lambda: print_table(
            ("setting", "value", "from", "meaning"),
            [(row["name"], row["value"], row["source"], row["meaning"]) for row in rows],
        ),
    )


def list_settings() -> list[dict[str, str]]:
    """Return name, value as text, source (`environment` or `default`) and meaning of each setting.

    Secrets are shown as `********`; a setting without a value is empty.

    Raises:
        pydantic.ValidationError: A value in the environment is not acceptable.
    """
    from steelyard.runtime.settings import environment_name, load_settings

    settings = load_settings()
    in_environment = {name.upper() for name in os.environ}
    rows = []
    for field, about in type(settings).model_fields.items():
        name, value = environment_name(field), getattr(settings, field)
        rows.append(
            {
                "name": name,
                "value": "" if value is None else str(value),
                "source": "environment" if name in in_environment else "default",
                "meaning": about.description or "",
            }
        )
    known = {row["name"] for row in rows}
    for name, meaning in OTHER_NAMES.items():
        if name not in known:
            value = os.environ.get(name, "")
            source = "environment" if name in os.environ else "default"
            rows.append({"name": name, "value": value, "source": source, "meaning": meaning})
    return rows
