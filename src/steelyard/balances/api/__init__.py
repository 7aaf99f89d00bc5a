"""The routes of accounts and balances."""

from steelyard.balances.api.accounts import ACCOUNT_ROUTES
from steelyard.balances.api.balances import BALANCE_ROUTES

ROUTES = (*ACCOUNT_ROUTES, *BALANCE_ROUTES)
