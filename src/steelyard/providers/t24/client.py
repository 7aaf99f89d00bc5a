"""Asks T24 for balances: one request a call, whole answers only."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Final

import httpx2
import msgspec

from steelyard.core.clock import Clock
from steelyard.providers.contract import (
    AccountProblem,
    AccountReading,
    BalanceReading,
    Manifest,
    ProviderContext,
    Target,
    TargetAccount,
)
from steelyard.providers.errors import (
    ErrorScope,
    ProviderError,
    ProviderMalformed,
    ProviderNotFound,
    ProviderRefusedRequest,
    ProviderTransient,
    ProviderUnclassified,
)
from steelyard.providers.load import ProviderUnusable
from steelyard.providers.send import OutsideAnswer, Sender, open_transport
from steelyard.providers.t24.decode import Row, Rows, UnreadableAnswer, read_account
from steelyard.providers.t24.dialects import (
    DIALECTS,
    Position,
    Question,
    Speaker,
    credential_headers,
    is_askable,
)
from steelyard.providers.t24.manifest import MANIFEST, PAGE_ROWS, manifest_for
from steelyard.runtime.settings import Settings

PAGES_MAX: Final = 50
_NAME: Final = MANIFEST.name


class T24Client:
    """An open T24; see `steelyard.providers.contract.Provider`."""

    def __init__(
        self, speaker: Speaker, sender: Sender, *, clock: Clock, manifest: Manifest = MANIFEST
    ) -> None:
        self._speaker, self._sender, self._clock = speaker, sender, clock
        self.manifest = manifest

    async def fetch_balances(self, target: Target, *, deadline_s: float) -> BalanceReading:
        """Send one request; see the contract.

        In the dialect `iris` a target with several accounts and a customer's number is one request for up to 99
        of them; else each account is a request of its own.

        Raises:
            ProviderError: No answer that can be used.
        """
        if not target.accounts:
            raise ProviderRefusedRequest(provider=_NAME, reason="no_account")
        unaskable = tuple(one for one in target.accounts if not is_askable(one))
        if unaskable:
            return _without(target, unaskable)
        try:
            question = self._speaker.ask(target)
        except (ValueError, msgspec.MsgspecError):
            raise ProviderRefusedRequest(provider=_NAME, reason="position") from None
        as_of = self._clock.now()
        answer = await self._sender.send(question.request, deadline_s=deadline_s)
        return self._read(target, question, answer, as_of)

    def _read(
        self, target: Target, question: Question, answer: OutsideAnswer, as_of: datetime
    ) -> BalanceReading:
        if answer.status != 200:
            return _refused(question, _read_refusal(answer))
        try:
            found = self._speaker.dialect.read(answer.body)
        except UnreadableAnswer as error:
            raise ProviderMalformed(provider=_NAME, reason=str(error)) from None
        if found.failure is not None:
            return _refused(question, _error_of_failure(found.failure))
        if question.position is not None:
            return _read_page(target, question.position, found, as_of)
        return BalanceReading(
            *_sorted([_read_only_row(found.rows, question.accounts[0], as_of)]),
            rest=question.rest,
            server_s=found.server_s,
        )


def _without(target: Target, unaskable: tuple[TargetAccount, ...]) -> BalanceReading:
    """Tell which numbers cannot be asked for, without a request; the others are the rest."""
    problems = tuple(
        AccountProblem(one, _account_error(ProviderRefusedRequest, "account_number"))
        for one in unaskable
    )
    others = tuple(one for one in target.accounts if one not in unaskable)
    return BalanceReading((), problems, replace(target, accounts=others) if others else None)


def _refused(question: Question, error: ProviderError) -> BalanceReading:
    """Tell a refusal of each account that was asked for; raise one that is about everybody.

    Raises:
        ProviderError: It is about everybody.
    """
    if error.scope is not ErrorScope.ACCOUNT:
        raise error
    problems = tuple(AccountProblem(one, error) for one in question.accounts)
    return BalanceReading((), problems, question.rest)


def _read_refusal(answer: OutsideAnswer) -> ProviderError:
    """Return what a 400 or 404 with a JSON body says."""
    if answer.status == 404:
        return _account_error(ProviderNotFound, "status_404")
    try:
        failure = DIALECTS["iris"].read(answer.body).failure
    except UnreadableAnswer:
        failure = None
    if failure is None or failure == "unknown":
        return _account_error(ProviderRefusedRequest, "status_400")
    return _error_of_failure(failure)


def _error_of_failure(failure: str) -> ProviderError:
    if failure.lower() == "business":
        return _account_error(ProviderRefusedRequest, "business")
    if failure.lower() == "system":
        return ProviderTransient(provider=_NAME, reason="system")
    return ProviderUnclassified(provider=_NAME, reason="failure")


def _read_only_row(
    rows: tuple[Row, ...], account: TargetAccount, as_of: datetime
) -> AccountReading | AccountProblem:
    if not rows:
        return AccountProblem(account, _account_error(ProviderNotFound, "no_row"))
    if any(row.number not in (None, account.number) for row in rows):
        return AccountProblem(account, _account_error(ProviderMalformed, "other_account"))
    return _read_one(rows, account, as_of)


def _read_one(
    rows: tuple[Row, ...], account: TargetAccount, as_of: datetime
) -> AccountReading | AccountProblem:
    if len(rows) > 1:
        return AccountProblem(account, _account_error(ProviderMalformed, "account_twice"))
    try:
        return read_account(rows[0], account, as_of=as_of)
    except UnreadableAnswer as error:
        return AccountProblem(account, _account_error(ProviderMalformed, str(error)))


def _read_page(target: Target, position: Position, found: Rows, as_of: datetime) -> BalanceReading:
    """Read one page of all accounts of a customer; those that are not ours are left out.

    Raises:
        ProviderMalformed: A row without a number, another page than the one asked for, or too many of them.
    """
    first = found.rows[0].number if found.rows else None
    if any(row.number is None for row in found.rows):
        raise ProviderMalformed(provider=_NAME, reason="no_number")
    if found.rows and (
        (position.before is not None and first == position.before)
        or found.page.start not in (None, position.start)
    ):
        raise ProviderMalformed(provider=_NAME, reason="wrong_page")
    counts = Counter(row.number for row in found.rows)
    told = [
        _read_one(tuple(row for row in found.rows if row.number == account.number), account, as_of)
        for account in target.accounts
        if account.number in counts
    ]
    unseen = tuple(one for one in target.accounts if one.number not in counts)
    rest: Target | None = None
    if unseen and _has_more(position, found):
        rest = replace(target, accounts=unseen, position=_next_position(position, found, first))
    elif unseen:
        told += [AccountProblem(one, _account_error(ProviderNotFound, "no_row")) for one in unseen]
    return BalanceReading(*_sorted(told), rest=rest, server_s=found.server_s)


def _has_more(position: Position, found: Rows) -> bool:
    """Whether rows may follow: a full page tells that as much as a total does, and some banks give no total."""
    count = len(found.rows)
    size = found.page.size or PAGE_ROWS
    total = found.page.total or 0
    return count > 0 and (
        count >= min(PAGE_ROWS, max(size, 1)) or position.start - 1 + count < total
    )


def _next_position(position: Position, found: Rows, first: str | None) -> str:
    if position.page >= PAGES_MAX:
        raise ProviderMalformed(provider=_NAME, reason="too_many_pages")
    following = Position(
        position.start + len(found.rows), position.page + 1, first, found.page.token
    )
    return msgspec.json.encode(following).decode()


def _sorted(
    told: list[AccountReading | AccountProblem],
) -> tuple[tuple[AccountReading, ...], tuple[AccountProblem, ...]]:
    readings = tuple(one for one in told if isinstance(one, AccountReading))
    return readings, tuple(one for one in told if isinstance(one, AccountProblem))


def _account_error(kind: type[ProviderError], reason: str) -> ProviderError:
    return kind(provider=_NAME, reason=reason, scope=ErrorScope.ACCOUNT)


def read_speaker(settings: Settings) -> Speaker:
    """Return the dialect, address and credentials that the settings name.

    Raises:
        ProviderUnusable: T24_API_URL or T24_API_KEY is not set.
    """
    if settings.t24_api_url is None or settings.t24_api_key is None:
        raise ProviderUnusable(provider=_NAME, problem="T24_API_URL and T24_API_KEY must be set")
    dialect = DIALECTS[settings.t24_dialect]
    credentials = settings.t24_credentials
    headers = credential_headers(
        dialect,
        key=settings.t24_api_key.get_secret_value(),
        user=settings.t24_user,
        credentials=credentials.get_secret_value() if credentials else None,
        company=settings.t24_company,
    )
    return Speaker(dialect, settings.t24_api_url, settings.t24_path or dialect.path, headers)


@asynccontextmanager
async def open_client(
    context: ProviderContext, *, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[T24Client]:
    """Open a client from settings; leaving the context closes its connections.

    Args:
        context: Settings and clock.
        transport: Carries the requests instead of connections of our own; closed at the end too.
    Raises:
        ProviderUnusable: A setting is missing, or the file of certificates cannot be read.
    """
    settings = context.settings
    speaker = read_speaker(settings)
    if transport is None:
        ca_file = settings.t24_ca_file
        try:
            transport = open_transport(
                speaker.url,
                connections_max=settings.t24_in_flight,
                ca_file=str(ca_file) if ca_file else None,
            )
        except OSError as error:
            problem = f"STEELYARD_T24_CA_FILE cannot be read ({type(error).__name__})"
            raise ProviderUnusable(provider=_NAME, problem=problem) from error
    async with transport:
        sender = Sender(transport, provider=_NAME, clock=context.clock)
        yield T24Client(speaker, sender, clock=context.clock, manifest=manifest_for(settings))
