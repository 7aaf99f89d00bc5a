"""The product's application with two routes more, which do all that a charge and a balance do but ask nobody.

They take the same body, check it the same way and answer a like document, through the same edge: what is
left is what the database costs. Nobody is asked who calls, either, so they are the strictest measure of the
rest. Only the benchmark mounts them.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from steelyard.access.roles import Permission
from steelyard.balances.model import Balance
from steelyard.balances.shapes import balance_answer
from steelyard.core.clock import format_utc
from steelyard.core.ids import DEFAULT_TENANT, UserId, parse_account_id
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.hot_routes import (
    Answer,
    HotRequest,
    HotRoute,
    HotTable,
    Operation,
    encode_json,
)
from steelyard.runtime.settings import Settings
from steelyard.runtime.strict_json import read_body

USER = UserId("bench")
CHARGES, BALANCE = "/api/accounts/{account}/charges", "/api/accounts/{account}/balance"
NULL_CHARGES, NULL_BALANCE = "/bench/null/{account}/charges", "/bench/null/{account}/balance"
LEFT = 1_000_000


def null_charge_of(charge: HotRoute) -> HotRoute:
    """Return a route that reads what `charge` reads and answers as if it had been posted."""
    body_shape: Any = charge.operation.body
    answer_shape: Any = charge.operation.answers[201]

    async def charge_nothing(request: HotRequest) -> Answer:
        body = read_body(request.body, body_shape)
        account = parse_account_id(request.params["account"])
        return Answer(
            201,
            encode_json(
                answer_shape(
                    transaction=f"{account}-1",
                    account=str(account),
                    kind="charge",
                    amount=-body.amount,
                    held_amount=0,
                    currency="GBP",
                    balance_after=LEFT,
                    held_after=0,
                    available_after=LEFT,
                    seq=1,
                    posted_at=format_utc(datetime.now(UTC)),
                )
            ),
        )

    operation = Operation("Charge nothing.", "bench", {201: answer_shape}, body=body_shape)
    return HotRoute(
        NULL_CHARGES,
        charge_nothing,
        method="POST",
        permission=Permission.MONEY_CHARGE,
        operation=operation,
    )


def null_balance_of(balance: HotRoute) -> HotRoute:
    """Return a route that answers a balance as if it had been read."""

    async def show_nothing(request: HotRequest) -> Answer:
        standing = Balance(
            tenant=DEFAULT_TENANT,
            account=parse_account_id(request.params["account"]),
            user=USER,
            kind="held",
            currency=find_currency("GBP"),
            posted=LEFT,
            held=0,
            floor=0,
            seq=1,
            suspended=None,
            as_of=datetime.now(UTC),
        )
        return Answer(200, encode_json(balance_answer(standing)))

    operation = Operation("Show nothing.", "bench", balance.operation.answers)
    return HotRoute(
        NULL_BALANCE,
        show_nothing,
        method="GET",
        permission=Permission.BALANCE_READ,
        operation=operation,
    )


def create_product_app(settings: Settings, *, database_url: str, made_secret: str) -> Any:
    """Build the application that `serve` runs, with the null routes beside its own."""
    # A command may not import the application; it is found by name.
    app = import_module("steelyard.app")
    application = app.create_app(settings, database_url=database_url, made_secret=made_secret)
    own: tuple[HotRoute, ...] = app.HOT_ROUTES
    null = (
        null_charge_of(_find(own, "POST", CHARGES)),
        null_balance_of(_find(own, "GET", BALANCE)),
    )
    application.router.routes.extend(null)
    application.edge.hot = HotTable((*own, *null))
    return application


def _find(routes: Iterable[HotRoute], method: str, path: str) -> HotRoute:
    return next(one for one in routes if one.method == method and one.path == path)
