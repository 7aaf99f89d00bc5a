"""The bytes that a change's hash covers: told in words, computed twice, the same in every session."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.runtime.database import Connection
from tests.crash.check_accounts import chain_hash
from tests.crash.ledger_copy import ChangeRow
from tests.world import World

PLAIN = ChangeRow(
    tenant="default",
    account=1_000_001,
    seq=5,
    kind="charge",
    amount=-123,
    held_amount=0,
    balance_after=-7,
    held_after=0,
    contra=2,
    contra_seq=None,
    target=None,
    posted_us=1_763_700_000_123_456,
    details=None,
    xid=0,
    hash=b"",
)
CHANGES = [
    PLAIN,
    replace(PLAIN, details='{"description":"caf\u00e9, 5 \u20ac"}', kind="recharge"),
    replace(PLAIN, kind="hold", contra=None, held_amount=50, held_after=50),
    replace(PLAIN, kind="capture", held_amount=-50, held_after=25, target=4),
    replace(PLAIN, kind="transfer", contra=1_000_002, contra_seq=9, details="{}"),
    replace(PLAIN, account=2**63 - 1, amount=-(2**63), balance_after=2**63 - 1, posted_us=-1),
    replace(PLAIN, contra=-1),
    replace(PLAIN, contra=0),
]
SESSIONS = [
    "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'SQL_ASCII'",
    "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'",
    "SET TimeZone = 'Asia/Kathmandu'",
    "SET bytea_output = 'escape'; SET extra_float_digits = -5",
    "SET standard_conforming_strings = off; SET backslash_quote = on; SET escape_string_warning = off",
    "SET search_path = pg_temp",
]
# Text goes there as UTF-8 in bytes, so that no session can alter it on the way.
ASK = """
    SELECT steelyard.chain_hash($1, convert_from($2, 'UTF8'), $3, $4, convert_from($5, 'UTF8'), $6, $7, $8, $9, $10, $11, $12,
               timestamptz 'epoch' + $13 * interval '1 microsecond', convert_from($14, 'UTF8'))
"""


async def ask(connection: Connection, previous: bytes, change: ChangeRow) -> bytes:
    """Return the hash that the database computes."""
    found: bytes = await connection.fetchval(
        ASK,
        previous,
        change.tenant.encode(),
        change.account,
        change.seq,
        change.kind.encode(),
        change.amount,
        change.held_amount,
        change.balance_after,
        change.held_after,
        change.contra,
        change.contra_seq,
        change.target,
        change.posted_us,
        None if change.details is None else change.details.encode(),
    )
    return found


@pytest.mark.parametrize("session", ["SELECT 1", *SESSIONS])
async def test_hash_is_the_documented_one_in_every_session(world: World, session: str) -> None:
    connection = await world.as_superuser()
    try:
        await connection.execute(session)
        for change in CHANGES:
            previous = bytes(range(32))
            assert await ask(connection, previous, change) == chain_hash(previous, change), change
    finally:
        await connection.close()


@given(
    numbers=st.lists(st.sampled_from([None, 0, 1, -1, 2**62]), min_size=5, max_size=5),
    kind=st.sampled_from(["charge", "charge|", "charge|{}", "", "\x01"]),
    details=st.sampled_from([None, "{}", "[]", "0", '"|"']),
    other=st.sampled_from([None, 0, 1, -1, 2**62]),
    place=st.sampled_from(["contra", "contra_seq", "target", "held_amount", "held_after"]),
)
def test_no_two_changes_have_the_same_hash(
    numbers: list[int | None], kind: str, details: str | None, other: int | None, place: str
) -> None:
    names = ("contra", "contra_seq", "target", "held_amount", "held_after")
    filled: dict[str, Any] = dict(zip(names, numbers, strict=True))
    altered: dict[str, Any] = {place: other}
    one = replace(PLAIN, kind=kind, details=details, **filled)
    two = replace(one, **altered)
    assert (chain_hash(bytes(32), one) == chain_hash(bytes(32), two)) is (one == two)
    moved = replace(one, kind=f"{kind}{details or ''}", details=None)
    assert (chain_hash(bytes(32), one) == chain_hash(bytes(32), moved)) is (one == moved)
