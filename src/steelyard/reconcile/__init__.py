"""Proves that every stored balance is what its changes say, and repairs what can be proved."""
