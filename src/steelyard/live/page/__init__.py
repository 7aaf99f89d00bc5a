"""The live page: what `/` shows, and how it is opened."""

from steelyard.live.page.open_session import SESSION_ROUTES
from steelyard.live.page.show_page import FILE_ROUTES

PAGE_ROUTES = (*FILE_ROUTES, *SESSION_ROUTES)
