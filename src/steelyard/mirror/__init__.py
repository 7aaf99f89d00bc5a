"""Money of others, as they report it: the only writer of mirrored balances."""
