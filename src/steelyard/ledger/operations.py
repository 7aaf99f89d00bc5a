"""The ledger as an application calls it: one method per thing that can be done to own money."""

from dataclasses import dataclass
from datetime import timedelta

from steelyard.balances.read import BalanceReader
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable, InvalidInput, NotFound, Overloaded
from steelyard.core.ids import AccountId, IdSource, TenantId, TransactionId, UserId
from steelyard.core.money import LARGEST_MINOR
from steelyard.ledger.commit import GroupCommit
from steelyard.ledger.model import Details, Kind, Order, Posted, Topup
from steelyard.ledger.store import find_topup, record_topup
from steelyard.ledger.topup import process_topup
from steelyard.runtime.database import Database

NOTHING = Details()
LONGEST_HOLD = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Own money of one tenant. Amounts are minor units of the account's currency, > 0.

    Every method that moves money takes a `key`: the same key with the same order answers what happened the first
    time, with another order raises IdempotencyConflict. Without one a random key is used: then a repeat is a second order.
    All raise the errors of `steelyard.ledger.errors`, NotFound for accounts that are not this tenant's, Overloaded, and
    DatabaseUnavailable, after which the outcome is unknown and the same key is safe.
    """

    tenant: TenantId
    database: Database
    commit: GroupCommit
    reader: BalanceReader
    clock: Clock
    ids: IdSource

    async def charge(
        self, account: AccountId, amount: int, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Take `amount` from an account, or change nothing. Raises InsufficientFunds, AccountSuspended."""
        return await self._post(Kind.CHARGE, account, amount, key=key, about=about)

    async def pay_booking(
        self, account: AccountId, amount: int, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Take the price of a booking, or change nothing. Raises InsufficientFunds, AccountSuspended."""
        return await self._post(Kind.BOOKING, account, amount, key=key, about=about)

    async def recharge(
        self, account: AccountId, amount: int, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Add `amount` to an account; ends a suspension once the account is at its floor again."""
        return await self._post(Kind.RECHARGE, account, amount, key=key, about=about)

    async def refund(
        self, account: AccountId, amount: int, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Give `amount` back that was spent, without naming a transaction; lowers the total spent."""
        return await self._post(Kind.REFUND, account, amount, key=key, about=about)

    async def reverse(
        self,
        transaction: TransactionId,
        amount: int | None = None,
        *,
        key: str | None = None,
        forced: bool = False,
        about: Details = NOTHING,
    ) -> Posted:
        """Take a transaction back: all that is left of it, or a part; never more than the whole.

        Money that was spent meanwhile refuses with InsufficientFunds unless `forced`, which may leave the account below
        its floor and then suspends it. Raises AlreadyReversed, ReversalExceedsTransaction, NotReversible.
        """
        order = self._order(
            Kind.REVERSAL,
            transaction.account,
            amount,
            key=key,
            about=about,
            forced=forced,
            target=transaction,
        )
        return await self.commit.post(order)

    async def transfer(
        self,
        source: AccountId,
        to: AccountId,
        amount: int,
        *,
        key: str | None = None,
        about: Details = NOTHING,
    ) -> Posted:
        """Move `amount` between two accounts of one currency, or change nothing. Answers the source's side."""
        order = self._order(Kind.TRANSFER, source, amount, key=key, about=about, counter=to)
        return await self.commit.post(order)

    async def hold(
        self,
        account: AccountId,
        amount: int,
        *,
        key: str | None = None,
        expires_in: timedelta | None = None,
        about: Details = NOTHING,
    ) -> Posted:
        """Set `amount` aside; the transaction's id is the hold's. The sweeper gives it back when its time is over."""
        if expires_in is not None and not timedelta(seconds=1) <= expires_in <= LONGEST_HOLD:
            raise InvalidInput(
                field="expires_in_s", problem="a hold lasts from 1 second to 366 days"
            )
        seconds = None if expires_in is None else int(expires_in.total_seconds())
        order = self._order(Kind.HOLD, account, amount, key=key, about=about, expires_in_s=seconds)
        return await self.commit.post(order)

    async def capture(
        self,
        hold: TransactionId,
        amount: int | None = None,
        *,
        key: str | None = None,
        about: Details = NOTHING,
    ) -> Posted:
        """Take what a hold set aside, or a part of it; the rest is given back. Raises HoldNotOpen, CaptureExceedsHold."""
        return await self.commit.post(
            self._order(Kind.CAPTURE, hold.account, amount, key=key, about=about, target=hold)
        )

    async def release(
        self, hold: TransactionId, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Give back what a hold set aside. Raises HoldNotOpen."""
        return await self.commit.post(
            self._order(Kind.RELEASE, hold.account, None, key=key, about=about, target=hold)
        )

    async def adjust(
        self, account: AccountId, amount: int, *, key: str | None = None, about: Details = NOTHING
    ) -> Posted:
        """Correct a balance by a signed amount; may leave it below its floor, which suspends the account."""
        return await self._post(Kind.ADJUSTMENT, account, amount, key=key, about=about)

    async def request_topup(self, account: AccountId, amount: int, *, by: str) -> Topup:
        """Ask for money; nothing moves until someone other than `by` approves."""
        if not 0 < amount <= LARGEST_MINOR:
            raise InvalidInput(field="amount", problem="must be from 1 to 2^53 - 1 minor units")
        balance = await self.reader.read(self.tenant, account)
        if balance.kind != "held" or balance.user is None:
            raise NotFound(kind="account", identifier=str(account))
        topup = Topup(
            id=self.ids.new_id(),
            account=account,
            user=balance.user,
            amount=amount,
            currency=balance.currency.code,
            status="pending",
            requested_by=by,
            requested_at=self.clock.now(),
            processed_by=None,
            processed_at=None,
            seq=None,
        )
        async with self.database.unit_of_work(self.tenant) as uow:
            await record_topup(uow, topup)
        return topup

    async def find_topup(self, topup_id: str) -> Topup:
        """Return a top-up. Raises NotFound."""
        async with self.database.unit_of_work(self.tenant) as uow:
            topup = await find_topup(uow, topup_id)
        if topup is None:
            raise NotFound(kind="top-up", identifier=topup_id)
        return topup

    async def process_topup(
        self, topup_id: str, *, approve: bool, by: str
    ) -> tuple[Topup, Posted | None]:
        """Approve or refuse a top-up, once; never by its requester. See `ledger.topup.process_topup`.

        Returns:
            The top-up as it is now, and what was posted if this call approved it.
        """
        async with self.database.unit_of_work(self.tenant) as uow:
            decision = await process_topup(
                uow, topup_id, approve=approve, by=by, now=self.clock.now()
            )
        if decision.posted is not None:
            self.commit.publish.step(decision.posted)
        elif decision.is_new:
            await self._tell_refused(decision.topup)
        return decision.topup, decision.posted

    async def _tell_refused(self, topup: Topup) -> None:
        try:
            balance = await self.reader.read(self.tenant, topup.account)
        except (DatabaseUnavailable, Overloaded):
            return  # told live only; the top-up itself says that it was refused
        self.commit.publish.refused_topup(topup, balance)

    async def primary_account(self, user: UserId) -> AccountId:
        """Return the account that stands for a user. Raises NotFound for a user without one."""
        account = await self.reader.primary_account(self.tenant, user)
        if account is None:
            raise NotFound(kind="account of user", identifier=user)
        return account

    async def _post(
        self, kind: Kind, account: AccountId, amount: int, *, key: str | None, about: Details
    ) -> Posted:
        return await self.commit.post(self._order(kind, account, amount, key=key, about=about))

    def _order(
        self,
        kind: Kind,
        account: AccountId,
        amount: int | None,
        *,
        key: str | None,
        about: Details,
        counter: AccountId | None = None,
        target: TransactionId | None = None,
        expires_in_s: int | None = None,
        forced: bool = False,
    ) -> Order:
        return Order(
            tenant=self.tenant,
            kind=kind,
            account=account,
            amount=amount,
            key=key if key is not None else self.ids.new_id(),
            counter=counter,
            target=None if target is None else target.seq,
            expires_in_s=expires_in_s,
            forced=forced,
            details=about.to_json(),
        )
