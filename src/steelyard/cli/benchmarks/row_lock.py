"""The peer: what a good engineer writes with SQLAlchemy when money must be right.

One transaction a charge: lock the account's row, take the idempotency key with the body's hash, record
the change with its `seq` and the balance after it, update the balance, commit. Core statements, which
SQLAlchemy compiles once and asyncpg prepares once per connection. It has what the guarantees need and
nothing more: no second posting, no chain, no tenants, nothing published.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import asyncpg
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from steelyard.core.errors import SteelyardError

TABLES = """
    CREATE SCHEMA peer;
    CREATE TABLE peer.account (
        id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0), seq bigint NOT NULL
    ) WITH (fillfactor = 80);
    CREATE TABLE peer.change (
        account_id bigint NOT NULL, seq bigint NOT NULL, amount bigint NOT NULL, balance_after bigint NOT NULL,
        posted_at timestamptz NOT NULL, PRIMARY KEY (account_id, seq)
    );
    CREATE TABLE peer.operation (
        key text COLLATE "C" PRIMARY KEY, body_hash bytea NOT NULL, account_id bigint NOT NULL, seq bigint NOT NULL
    );
"""

# The best that one call per charge can do: the same steps in one function, one round trip, one commit.
FUNCTION = """
    CREATE FUNCTION peer.charge(p_account bigint, p_amount bigint, p_key text, p_hash bytea, p_now timestamptz,
                                OUT r_outcome text, OUT r_balance bigint, OUT r_seq bigint)
        LANGUAGE plpgsql AS $$
    DECLARE v_found record;
    BEGIN
        SELECT a.balance - p_amount, a.seq + 1 INTO r_balance, r_seq FROM peer.account a
         WHERE a.id = p_account FOR NO KEY UPDATE;
        IF NOT FOUND THEN r_outcome := 'account_not_found'; RETURN; END IF;
        INSERT INTO peer.operation (key, body_hash, account_id, seq) VALUES (p_key, p_hash, p_account, r_seq)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT o.body_hash, c.seq, c.balance_after INTO v_found FROM peer.operation o
              JOIN peer.change c ON c.account_id = o.account_id AND c.seq = o.seq WHERE o.key = p_key;
            r_outcome := CASE WHEN v_found.body_hash = p_hash THEN 'replayed' ELSE 'idempotency_conflict' END;
            r_balance := v_found.balance_after; r_seq := v_found.seq;
            RETURN;
        END IF;
        IF r_balance < 0 THEN RAISE EXCEPTION 'insufficient funds' USING ERRCODE = 'SY002'; END IF;
        INSERT INTO peer.change (account_id, seq, amount, balance_after, posted_at)
        VALUES (p_account, r_seq, -p_amount, r_balance, p_now);
        UPDATE peer.account SET balance = r_balance, seq = r_seq WHERE id = p_account;
        r_outcome := 'posted';
    END $$;
"""

_meta = MetaData(schema="peer")
_account = Table(
    "account",
    _meta,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("balance", BigInteger),
    Column("seq", BigInteger),
)
_change = Table(
    "change",
    _meta,
    Column("account_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("amount", BigInteger),
    Column("balance_after", BigInteger),
    Column("posted_at", DateTime(timezone=True)),
)
_operation = Table(
    "operation",
    _meta,
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary),
    Column("account_id", BigInteger),
    Column("seq", BigInteger),
)

_LOCK_ACCOUNT = (
    select(_account.c.balance, _account.c.seq)
    .where(_account.c.id == bindparam("account_id"))
    .with_for_update()
)
_TAKE_KEY = insert_or_skip(_operation).on_conflict_do_nothing()
_FIND_OUTCOME = (
    select(_operation.c.body_hash, _change.c.seq, _change.c.balance_after, _change.c.posted_at)
    .join(
        _change,
        (_change.c.account_id == _operation.c.account_id) & (_change.c.seq == _operation.c.seq),
    )
    .where(_operation.c.key == bindparam("key"))
)
_RECORD_CHANGE = insert(_change)
_UPDATE_ACCOUNT = (
    update(_account)
    .where(_account.c.id == bindparam("account_id"))
    .values(balance=bindparam("new_balance"), seq=bindparam("new_seq"))
)


class PeerRefused(SteelyardError):
    """The peer's own refusals: `reason` is account_not_found, insufficient_funds or idempotency_conflict."""

    code = "peer_refused"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the peer refused a charge: {reason}; nothing was charged")


@dataclass(frozen=True, slots=True)
class PeerCharged:
    """What the peer answers: minor units."""

    balance_after: int
    seq: int
    posted_at: datetime
    replayed: bool


def open_engine(url: str, *, pool_size: int) -> AsyncEngine:
    """Return an engine whose pool holds exactly `pool_size` connections; statements are kept prepared."""

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(url)

    return create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, pool_size=pool_size, max_overflow=0
    )


@dataclass(slots=True)
class RowLock:
    """Charges by locking the account's row."""

    engine: AsyncEngine

    async def charge(self, account: int, amount: int, key: str) -> PeerCharged:
        """Take `amount` from an account, or change nothing.

        Raises:
            PeerRefused: No such account, not enough money, or the key was used for something else.
        """
        body_hash = sha256(f"{account}|{amount}".encode()).digest()
        now = datetime.now(UTC)
        async with self.engine.begin() as connection:
            found = (await connection.execute(_LOCK_ACCOUNT, {"account_id": account})).first()
            if found is None:
                raise PeerRefused("account_not_found")
            balance, seq = found.balance - amount, found.seq + 1
            place = {"account_id": account, "seq": seq}
            taken = await connection.execute(
                _TAKE_KEY, {"key": key, "body_hash": body_hash, **place}
            )
            if taken.rowcount == 0:
                return await _replay(connection, key, body_hash)
            if balance < 0:
                raise PeerRefused("insufficient_funds")
            change = {**place, "amount": -amount, "balance_after": balance, "posted_at": now}
            await connection.execute(_RECORD_CHANGE, change)
            await connection.execute(
                _UPDATE_ACCOUNT, {"account_id": account, "new_balance": balance, "new_seq": seq}
            )
        return PeerCharged(balance, seq, now, False)


async def _replay(connection: AsyncConnection, key: str, body_hash: bytes) -> PeerCharged:
    earlier = (await connection.execute(_FIND_OUTCOME, {"key": key})).one()
    if earlier.body_hash != body_hash:
        raise PeerRefused("idempotency_conflict")
    return PeerCharged(earlier.balance_after, earlier.seq, earlier.posted_at, True)
