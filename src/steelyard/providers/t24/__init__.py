"""Temenos T24 / Transact: balances of a core bank's accounts, in three dialects, and a simulator of it."""
