"""Steelyard keeps money balances true and live.

It holds prepaid balances in its own double-entry ledger, mirrors the balances and transactions that
banks report, proves that every stored balance is right, and pushes every change at once.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steelyard.opened import open as open  # noqa: A004

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `steelyard.open` when it is asked for: the rest of the package starts without it."""
    if name == "open":
        from steelyard.opened import open as opened

        return opened
    raise AttributeError(f"module 'steelyard' has no attribute {name!r}")
