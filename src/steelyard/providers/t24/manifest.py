"""What T24 declares of itself; read without importing its client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from steelyard.providers.contract import (
    API_VERSION,
    AccountIdentity,
    AmountEncoding,
    AmountSign,
    BalanceKind,
    BalanceTime,
    Capability,
    Limits,
    Manifest,
    Provider,
    ProviderContext,
    ProviderPlugin,
)
from steelyard.runtime.settings import Settings

PAGE_ROWS: Final = 99
"""Rows of one page; a customer with more accounts than this comes in several."""

MANIFEST: Final = Manifest(
    name="t24",
    title="Temenos T24 / Transact",
    api_version=API_VERSION,
    capabilities=frozenset({Capability.BALANCES}),
    balance_kinds=frozenset(BalanceKind),
    identity=AccountIdentity.NUMBER,
    amount_encodings=frozenset(AmountEncoding),
    amount_sign=AmountSign.NEGATIVE_IS_OVERDRAWN,
    balance_time=BalanceTime.WHEN_ASKED,
    limits=Limits(requests_per_s=10.0, in_flight=10, page_rows=PAGE_ROWS),
)


def manifest_for(settings: Settings) -> Manifest:
    """Return the manifest with the limits of an installation's settings."""
    limits = Limits(settings.t24_requests_per_s, settings.t24_in_flight, PAGE_ROWS)
    return replace(MANIFEST, limits=limits)


@asynccontextmanager
async def open_t24(context: ProviderContext) -> AsyncIterator[Provider]:
    """Open the T24 of the settings `T24_…`; leaving the context closes its connections.

    Raises:
        ProviderUnusable: T24_API_URL or T24_API_KEY is not set, or the file of certificates cannot be read.
    """
    from steelyard.providers.t24.client import open_client

    async with open_client(context) as client:
        yield client


PLUGIN: Final = ProviderPlugin(MANIFEST, open_t24)
