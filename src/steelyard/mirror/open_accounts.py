"""A user's accounts elsewhere become known here, and who has none stays out of it."""

from collections.abc import Sequence
from datetime import datetime

from steelyard.core.ids import AccountId
from steelyard.mirror import store
from steelyard.mirror.model import NewMirroredAccount
from steelyard.runtime.database import UnitOfWork

MOBILE_BANKING, WALLET = "MOBILE_BANKING", "WALLET"


async def open_accounts(
    uow: UnitOfWork, accounts: Sequence[NewMirroredAccount], *, now: datetime
) -> list[tuple[AccountId, bool]]:
    """Open mirrored accounts and give their users the context `MOBILE_BANKING`; repeating it changes nothing.

    Returns:
        For each: its id, and whether it was opened now.
    Raises:
        NotFound: A user does not exist, or the tenant keeps no book in a currency.
    """
    opened = await store.open_accounts(uow, accounts, now=now)
    await store.set_context(uow, sorted({account.user for account in accounts}), MOBILE_BANKING)
    return opened
