"""A user's accounts elsewhere become known here, and who has none stays out of it."""

from collections.abc import Sequence
from datetime import datetime

from steelyard.core.errors import InvalidInput
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
        InvalidInput: A number or a type is not acceptable; nothing was written.
        NotFound: A user does not exist, or the tenant keeps no book in a currency.
    """
    for account in accounts:
        _check_words(account)
    opened = await store.open_accounts(uow, accounts, now=now)
    await store.set_context(uow, sorted({account.user for account in accounts}), MOBILE_BANKING)
    return opened


def _check_words(account: NewMirroredAccount) -> None:
    number, kind = account.number, account.account_type
    if not (1 <= len(number) <= 64 and number.isascii() and number.isprintable()):
        raise InvalidInput(
            field="number", problem="an account's number is 1 to 64 printable ASCII characters"
        )
    if kind is not None and not (1 <= len(kind) <= 40 and kind.isprintable()):
        raise InvalidInput(
            field="account_type", problem="an account's type is 1 to 40 printable characters"
        )
