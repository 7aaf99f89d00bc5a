"""The three ways a T24 is spoken to: what is sent, and how what comes back is read.

Source: the reference's bearer endpoint (docs/reference/providers.md, "T24"); Temenos IRIS holdings API, swagger
r21.07 v4.3.0, read 2026-11-20; a public admin panel in front of a bank's own middleware, read 2026-11-20.
"""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from steelyard import __version__
from steelyard.providers.contract import Target, TargetAccount
from steelyard.providers.send import OutsideRequest
from steelyard.providers.t24.decode import Rows, read_bearer, read_holdings
from steelyard.providers.t24.manifest import PAGE_ROWS

_NUMBER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,33}")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask.

    Args:
        path: Below the bank's address; `{account}` stands for the number, else it is the query `accountId`.
        method: Of the request.
        read: Reads an answer with status 200.
        has_customers: Whether all accounts of a customer can be asked for at once.
    """

    name: str
    path: str
    method: str
    read: Callable[[bytes], Rows]
    has_customers: bool = False


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType(
    {
        one.name: one
        for one in (
            Dialect("bearer", "/account/{account}/balance", "POST", read_bearer),
            Dialect(
                "middleware",
                "/api/esb/accounts/account/v1/balances/{account}",
                "GET",
                read_holdings,
            ),
            Dialect(
                "iris", "/holdings/accounts/balances", "GET", read_holdings, has_customers=True
            ),
        )
    }
)


class Position(msgspec.Struct, frozen=True):
    """Where a customer's next page begins.

    Args:
        start: Its first row, from 1.
        page: Its number, from 1.
        before: First account of the page before it, to notice a bank that gives the same page again.
        token: What the bank gave for going on.
    """

    start: int = 1
    page: int = 1
    before: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what it is about.

    Args:
        accounts: Those of the target that its answer tells of.
        rest: The target without them, or None.
        position: Where the page begins, when all accounts of a customer are asked for.
    """

    request: OutsideRequest
    accounts: tuple[TargetAccount, ...]
    rest: Target | None
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A dialect with a bank's address and our credentials."""

    dialect: Dialect
    url: str
    path: str
    headers: Mapping[str, str] = field(repr=False)

    def ask(self, target: Target) -> Question:
        """Return the next request for a target whose first account `is_askable`.

        Raises:
            ValueError: The target's position is none of ours.
        """
        if target.customer and self._can_ask_customer and _wants_customer(target):
            return self._ask_customer(target, target.customer)
        account, others = target.accounts[0], target.accounts[1:]
        url = self.url + self.path.replace("{account}", quote(account.number, safe=""))
        if "{account}" not in self.path:
            url += "?" + urlencode({"accountId": account.number})
        rest = replace(target, accounts=others) if others else None
        return Question(self._request(url), (account,), rest)

    @property
    def _can_ask_customer(self) -> bool:
        return self.dialect.has_customers and "{account}" not in self.path

    def _ask_customer(self, target: Target, customer: str) -> Question:
        position = (
            Position()
            if target.position is None
            else msgspec.json.decode(target.position, type=Position)
        )
        query = {
            "customerId": customer,
            "page_size": str(PAGE_ROWS),
            "page_start": str(position.start),
        }
        if position.token:
            query["page_token"] = position.token
        request = self._request(f"{self.url}{self.path}?{urlencode(query)}")
        return Question(request, target.accounts, None, position)

    def _request(self, url: str) -> OutsideRequest:
        body = b"{}" if self.dialect.method == "POST" else None
        return OutsideRequest(self.dialect.method, url, self.headers, body)


def is_askable(account: TargetAccount) -> bool:
    """Whether a number can be an account's: nothing that would mean something in an address."""
    return _NUMBER.fullmatch(account.number) is not None


def credential_headers(
    dialect: Dialect, *, key: str, user: str | None, credentials: str | None, company: str | None
) -> dict[str, str]:
    """Return the headers that say who we are, and what we take."""
    if user is not None:
        authorization = "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()
    else:
        authorization = key if dialect.name == "iris" else f"Bearer {key}"
    headers = {
        "Authorization": authorization,
        "Accept": "application/json",
        "User-Agent": f"steelyard/{__version__}",
    }
    if dialect.method == "POST":
        headers["Content-Type"] = "application/json"
    if credentials is not None:
        headers["credentials"] = credentials
    if company is not None:
        headers["companyId"] = company
    return headers


def _wants_customer(target: Target) -> bool:
    return len(target.accounts) > 1 or target.position is not None
