"""A T24 to practise on: its own true balances, real HTTP, and everything that goes wrong at a bank."""
