"""The codes that open the live page: once, for ten minutes, and never by guessing."""

from datetime import timedelta
from pathlib import Path

import pytest

from steelyard.access.key_sets import FixedKeys
from steelyard.access.model import Role
from steelyard.access.page_sessions import (
    CODES_MAX,
    REFUSALS_MAX,
    PageCodeRefused,
    PageCodes,
    PageSessions,
    TooManyCodes,
)
from steelyard.access.tokens import TokenRules, TokenVerifier
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.runtime.datafolder import open_folder
from steelyard.testing.clock import FrozenClock

KEY = b"only for tests: 32 bytes and a few more"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def sessions(tmp_path: Path, clock: FrozenClock) -> PageSessions:
    return PageSessions(PageCodes(open_folder(tmp_path / "data")), TokenRules(), KEY, clock)


def kept(sessions: PageSessions) -> list[Path]:
    """The files of codes that wait."""
    return sorted((sessions.codes.folder.path / "page-codes").iterdir())


async def test_a_code_is_exchanged_once_for_two_principals(
    sessions: PageSessions, clock: FrozenClock
) -> None:
    code = sessions.codes.make(clock.now())
    tokens = sessions.open(code)
    verifier = TokenVerifier(TokenRules(), FixedKeys((KEY,)), clock)
    asks, decides = (await verifier.verify(tokens.service), await verifier.verify(tokens.admin))
    assert [one.principal.role for one in (asks, decides)] == [Role.SERVICE, Role.ADMIN]
    assert {one.principal.tenant for one in (asks, decides)} == {DEFAULT_TENANT}
    assert asks.principal.subject != decides.principal.subject
    assert asks.expires_at == decides.expires_at == tokens.expires_at
    assert tokens.expires_at == clock.now() + timedelta(hours=12)
    with pytest.raises(PageCodeRefused):
        sessions.open(code)


def test_a_code_ends_after_ten_minutes(sessions: PageSessions, clock: FrozenClock) -> None:
    early, late = (sessions.codes.make(clock.now()) for _ in range(2))
    clock.move(timedelta(minutes=10) - timedelta(seconds=1))
    sessions.open(early)
    clock.move(timedelta(seconds=1))
    with pytest.raises(PageCodeRefused):
        sessions.open(late)


def test_a_code_is_kept_as_its_hash_and_for_its_owner_alone(
    sessions: PageSessions, clock: FrozenClock
) -> None:
    code = sessions.codes.make(clock.now())
    [file] = kept(sessions)
    assert len(code) >= 32
    assert code not in file.name + file.read_text()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_codes_do_not_pile_up(sessions: PageSessions, clock: FrozenClock) -> None:
    codes = []
    for _ in range(CODES_MAX + 20):
        codes.append(sessions.codes.make(clock.now()))
        clock.move(timedelta(seconds=1))
    assert len(kept(sessions)) == CODES_MAX
    sessions.open(codes[-1])
    clock.move(timedelta(minutes=11))
    sessions.codes.make(clock.now())
    assert len(kept(sessions)) == 1


@pytest.mark.parametrize(
    "code", ["", "../secrets/token-secret", "never-made", "\x00", "é", "\ud800"]
)
def test_what_was_never_made_opens_nothing(sessions: PageSessions, code: str) -> None:
    with pytest.raises(PageCodeRefused):
        sessions.open(code)


def test_guessing_is_slowed_down(sessions: PageSessions, clock: FrozenClock) -> None:
    code = sessions.codes.make(clock.now())
    for number in range(REFUSALS_MAX):
        with pytest.raises(PageCodeRefused):
            sessions.open(f"guess-{number}")
    with pytest.raises(TooManyCodes) as refused:
        sessions.open(code)
    assert refused.value.retry_after_s == 60
    clock.move(timedelta(seconds=61))
    sessions.open(code)
