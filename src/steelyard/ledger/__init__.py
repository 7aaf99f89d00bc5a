"""Own money: the only writer of held balances."""
