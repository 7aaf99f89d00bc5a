"""Our side: the product's own services, every part of them, as `serve` opens them."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from steelyard.runtime.settings import Settings

ISSUER, AUDIENCE = "steelyard-bench", "steelyard"


def bench_settings(
    *, redis_url: str | None = None, settings: Mapping[str, object] | None = None
) -> Settings:
    """Return the product's default settings, whatever the environment says, with names tokens must carry."""
    defaults = {name: field.get_default() for name, field in Settings.model_fields.items()}
    own = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "redis_url": redis_url}
    return Settings(**{**defaults, **own, **(settings or {})})


@asynccontextmanager
async def open_product(
    app_url: str, *, redis_url: str | None = None, settings: Mapping[str, object] | None = None
) -> AsyncIterator[Any]:
    """Open `steelyard.app.Services`: ledger, cache, bus with a listener, relay, sweeper, metrics."""
    # A command may not import the application; it is found by name, as `serve` finds it.
    app = import_module("steelyard.app")
    async with app.open_services(
        bench_settings(redis_url=redis_url, settings=settings),
        database_url=app_url,
        made_secret=secrets.token_urlsafe(48),
    ) as services:
        yield services
