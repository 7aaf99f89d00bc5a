"""Steelyard keeps money balances true and live.

It holds prepaid balances in its own double-entry ledger, mirrors the balances and transactions that
banks report, proves that every stored balance is right, and pushes every change at once.
"""

__version__ = "0.1.0"
