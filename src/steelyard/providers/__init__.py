"""Outside sources of balances: what a provider is, and one folder for each that we ship."""
