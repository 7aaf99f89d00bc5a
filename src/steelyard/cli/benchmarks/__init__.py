"""Measures the product beside its peers, in one run: `steelyard bench`."""
