"""Syncing as a Python program calls it, for one tenant: the calls of the reference."""

from dataclasses import dataclass
from datetime import datetime

from steelyard.core.ids import TenantId, parse_user_id
from steelyard.core.money import Money, format_major
from steelyard.sync.model import SyncResult as Answer
from steelyard.sync.model import SyncStatus
from steelyard.sync.open_sync import BalanceSync


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Answer to a login. `ok`: `balance` was read after the call; else it is the stored one, or None.

    Args:
        ok: Whether the balance is fresh.
        balance: Available balance of the user's primary mirrored account as the reference has it: text of major
            units with all of the currency's digits, `1500.00`. `money` is the same to compute with.
        as_of: UTC; when it was read.
        currency: ISO 4217 code.
        queued: A sync is under way and goes on.
        run_id: The run that serves the login.
        reason: Why there is no fresh balance; the words of `Reason`.
        account: The account's id.
        money: The balance in minor units.
    """

    ok: bool
    balance: str | None
    as_of: datetime | None
    currency: str | None
    queued: bool
    run_id: str | None
    reason: str | None
    account: str | None
    money: Money | None


@dataclass(frozen=True, slots=True)
class TenantBalanceSync:
    """Balances at the core bank, for one tenant's program."""

    sync: BalanceSync
    tenant: TenantId

    async def sync_with_timeout(self, user_id: str | int) -> SyncResult:
        """Return the user's fresh balance, or after `AUTH_SYNC_TIMEOUT` the stored one while the sync goes on.

        Users who are unknown, inactive or WALLET get a `reason` and nothing is asked of the bank. Never raises for
        trouble of the bank. Somebody must be syncing: a server, or this process after `start`.

        Raises:
            InvalidInput: It can be no user's id.
            DatabaseUnavailable: The database did not answer, and nothing is known of the user.
        """
        return _result(await self.sync.sync_with_timeout(self.tenant, parse_user_id(str(user_id))))

    async def queue_sync(self, user_id: str | int) -> bool:
        """Ask for a sync in the background. Returns whether it was newly queued; a user is never queued twice.

        Raises:
            InvalidInput: It can be no user's id.
            DatabaseUnavailable: The database did not answer.
        """
        return (await self.sync.queue_sync(self.tenant, parse_user_id(str(user_id)))).is_new

    async def get_status(self) -> SyncStatus:
        """Return `priority`, `background` and `processing` of the whole installation, at most a second old.

        Raises:
            DatabaseUnavailable: The database did not answer.
        """
        return await self.sync.get_status()

    def start(self) -> None:
        """Let this process sync what is due, of every tenant, until `stop`; a second call does nothing."""
        self.sync.start()

    async def stop(self) -> None:
        """Let this process sync no more: what is under way is written, for at most 5 s. Other processes go on."""
        await self.sync.stop()


def _result(answer: Answer) -> SyncResult:
    currency, money = answer.currency, None
    if answer.balance is not None and currency is not None:
        money = Money(answer.balance, currency)
    return SyncResult(
        ok=answer.ok,
        balance=None if money is None else format_major(money.minor, money.currency.digits),
        as_of=answer.as_of,
        currency=None if currency is None else currency.code,
        queued=answer.queued,
        run_id=None if answer.run_id is None else str(answer.run_id),
        reason=None if answer.reason is None else str(answer.reason),
        account=None if answer.account is None else str(answer.account),
        money=money,
    )
