"""The peer over HTTP: FastAPI, strict pydantic models, the row lock, and the same tokens.

Tokens are verified with PyJWT and believed for 5 s by their digest, as ours are. It writes no log line a
request and counts nothing: what it leaves out only makes it faster.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from steelyard.cli.benchmarks.product import AUDIENCE, ISSUER
from steelyard.cli.benchmarks.row_lock import PeerCharged, PeerRefused, RowLock, open_engine

BELIEVED_S, KNOWN_MAX = 5.0, 10_000
_STATUS = {"account_not_found": 404, "insufficient_funds": 402, "idempotency_conflict": 409}


class ChargeBody(BaseModel):
    """What a charge takes: the fields ours takes."""

    model_config = ConfigDict(strict=True, extra="forbid")
    amount: int = Field(ge=1, le=2**53 - 1)
    currency: str | None = Field(None, pattern="^[A-Z]{3}$")
    description: str | None = Field(None, max_length=500)
    service_type: str | None = Field(None, min_length=1, max_length=200)
    reference_model: str | None = Field(None, min_length=1, max_length=200)
    reference_id: str | None = Field(None, min_length=1, max_length=200)


class ChargeAnswer(BaseModel):
    """What a charge answers: the fields ours answers."""

    transaction: str
    account: str
    kind: str
    amount: int
    held_amount: int
    currency: str
    balance_after: int
    held_after: int
    available_after: int
    seq: int
    posted_at: datetime


class TokenChecker:
    """Verifies a bearer token and requires the role of a service."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._known: OrderedDict[bytes, tuple[float, dict[str, object]]] = OrderedDict()

    async def __call__(
        self, authorization: Annotated[str | None, Header()] = None
    ) -> dict[str, object]:
        """Return the token's claims.

        Raises:
            HTTPException: 401 without a good token, 403 for another role.
        """
        scheme, _, token = (authorization or "").partition(" ")
        digest = sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < BELIEVED_S:
            return known[1]
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=["HS256"], issuer=ISSUER, audience=AUDIENCE
            )
        except jwt.PyJWTError as error:
            raise HTTPException(401, "unauthenticated") from error
        if scheme.lower() != "bearer" or claims.get("role") != "service":
            raise HTTPException(403, "forbidden")
        self._known[digest] = (time.monotonic(), claims)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return claims


def create_peer_app(*, database_url: str, secret: str, pool_size: int) -> FastAPI:
    """Build the peer's application."""
    engine = open_engine(database_url, pool_size=pool_size)
    peer = RowLock(engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    check_token = TokenChecker(secret)

    @app.post(
        "/api/accounts/{account}/charges", status_code=201, dependencies=[Depends(check_token)]
    )
    async def charge(
        account: int,
        body: ChargeBody,
        response: Response,
        idempotency_key: Annotated[str, Header(min_length=1, max_length=255)],
    ) -> ChargeAnswer:
        try:
            charged = await peer.charge(account, body.amount, idempotency_key)
        except PeerRefused as refusal:
            raise HTTPException(_STATUS[refusal.reason], refusal.reason) from refusal
        if charged.replayed:
            response.status_code = 200
        return _answer(account, body.amount, charged)

    @app.post("/bench/null/{account}/charges", status_code=201)
    async def charge_nothing(account: int, body: ChargeBody) -> ChargeAnswer:
        return _answer(account, body.amount, PeerCharged(1_000_000, 1, datetime.now(UTC), False))

    return app


def _answer(account: int, amount: int, charged: PeerCharged) -> ChargeAnswer:
    return ChargeAnswer(
        transaction=f"{account}-{charged.seq}",
        account=str(account),
        kind="charge",
        amount=-amount,
        held_amount=0,
        currency="GBP",
        balance_after=charged.balance_after,
        held_after=0,
        available_after=charged.balance_after,
        seq=charged.seq,
        posted_at=charged.posted_at,
    )
