"""Shared words: money, ids, clock, errors. Standard library only."""
