"""Decides what to pull from other sources and when, and pulls it."""
