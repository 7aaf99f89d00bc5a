"""The ledger's routes."""

from steelyard.ledger.api.bookings import BOOKING_ROUTES
from steelyard.ledger.api.money import MONEY_ROUTES
from steelyard.ledger.api.topups import TOPUP_ROUTES
from steelyard.ledger.api.transactions import TRANSACTION_ROUTES

ROUTES = (*MONEY_ROUTES, *BOOKING_ROUTES, *TOPUP_ROUTES, *TRANSACTION_ROUTES)
