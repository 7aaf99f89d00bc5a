"""A public kit for tests of what is built on Steelyard."""
