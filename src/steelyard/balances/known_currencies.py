"""Remembers which currency an account is in. It never changes, so what is remembered never ages.

One question to the database teaches the currencies of all the tenant's accounts whose ids lie close by.
Accounts are opened one after the other, so a million of them are known after a thousand questions.
"""

import asyncio
import math
import sys
from typing import Final

from steelyard.access.recent import Recent
from steelyard.balances.read import BalanceReader
from steelyard.balances.store import load_currencies
from steelyard.core.errors import DatabaseUnavailable
from steelyard.core.ids import AccountId, TenantId

BLOCK_BITS: Final = 10
BLOCK_MASK: Final = (1 << BLOCK_BITS) - 1
BLOCKS_MAX: Final = 5_000
"""Blocks of 1,024 ids and 8 kB each; the one unused for longest leaves."""
DEADLINE_S: Final = 2.5

Block = list[str | None]
"""The code of each id of a block; None where none is known."""


class KnownCurrencies:
    """Currency codes by account; asks the database once for each block of ids."""

    def __init__(self, reader: BalanceReader) -> None:
        self._reader = reader
        self._blocks: Recent[tuple[TenantId, int], Block] = Recent(
            reader.clock, math.inf, BLOCKS_MAX
        )

    async def get(self, tenant: TenantId, account: AccountId) -> str:
        """Return the account's currency code.

        Raises:
            NotFound: No such account in this tenant.
            DatabaseUnavailable: It did not answer.
        """
        place = (tenant, account >> BLOCK_BITS)
        known = self._blocks.peek(place)
        block = (
            await self._blocks.get(place, lambda: self._load(place)) if known is None else known[0]
        )
        code = block[account & BLOCK_MASK]
        if code is None:  # opened since, or there is none
            code = sys.intern((await self._reader.read(tenant, account)).currency.code)
            block[account & BLOCK_MASK] = code
        return code

    async def _load(self, place: tuple[TenantId, int]) -> Block:
        tenant, first = place[0], place[1] << BLOCK_BITS
        try:
            async with (
                asyncio.timeout(DEADLINE_S),
                self._reader.database.unit_of_work(tenant) as uow,
            ):
                found = await load_currencies(uow, first, first + BLOCK_MASK)
        except TimeoutError:
            raise DatabaseUnavailable(doing="reading currencies") from None
        block: Block = [None] * (BLOCK_MASK + 1)
        for account, code in found:
            block[account & BLOCK_MASK] = sys.intern(code)
        return block
