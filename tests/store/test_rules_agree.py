"""The SQL function and the plain model decide alike, on the same histories."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.balances.store import post_batch
from steelyard.core.ids import AccountId, TenantId
from steelyard.ledger.model import Kind, Order
from steelyard.ledger.outcomes import columns_of
from steelyard.ledger.rules import LedgerModel, Standing, Verdict
from tests.world import World

TENANTS = (TenantId("default"), TenantId("acme"))
START = datetime(2026, 1, 1, tzinfo=UTC)


class History:
    """One model and one set of accounts in the database, moved in step."""

    def __init__(
        self, world: World, accounts: list[tuple[TenantId, AccountId]], model: LedgerModel
    ) -> None:
        self.world, self.accounts, self.model, self.now = world, accounts, model, START
        self.posted: list[tuple[TenantId, AccountId, int]] = []
        self.keys: list[Order] = []
        self.steps = 0

    @classmethod
    async def begin(cls, world: World, chance: random.Random) -> "History":
        """Open accounts of two tenants, two currencies, and several floors."""
        model, accounts = LedgerModel(), []
        for tenant in TENANTS:
            await world.make_tenant(tenant, "GBP", "JPY")
            for currency in ("GBP", "GBP", "JPY"):
                floor = chance.choice([0, 0, -50, 20])
                account = await world.open_account(tenant=tenant, currency=currency, floor=floor)
                suspended = "below_floor" if floor > 0 else None
                model.accounts[tenant, account] = Standing(
                    currency, floor=floor, suspended=suspended
                )
                accounts.append((tenant, account))
        return cls(world, accounts, model)

    def order(self, chance: random.Random) -> Order:
        """Make up an order: mostly sensible, sometimes foreign, repeated, or absurd."""
        if self.keys and chance.random() < 0.15:
            old = chance.choice(self.keys[-40:])
            return old if chance.random() < 0.7 else self._fresh(chance, key=old.key)
        return self._fresh(chance, key=f"{chance.random()}")

    def _fresh(self, chance: random.Random, key: str) -> Order:
        tenant, account = chance.choice(self.accounts)
        kind = chance.choice(list(Kind))
        amount: int | None = chance.choice([1, 5, 20, 60, 60, chance.randint(1, 200)])
        counter = target = None
        if kind is Kind.TRANSFER:
            counter = chance.choice(self.accounts)[1]
        if kind in (Kind.CAPTURE, Kind.RELEASE, Kind.EXPIRE, Kind.REVERSAL, Kind.REFUND):
            if self.posted and chance.random() < 0.9:
                tenant, account, target = chance.choice(self.posted[-25:])
            elif kind is not Kind.REFUND:
                target = chance.randint(1, 9)
            if kind in (Kind.RELEASE, Kind.EXPIRE) or chance.random() < 0.4:
                amount = None
        if kind is Kind.ADJUSTMENT and chance.random() < 0.5 and amount is not None:
            amount = -amount
        if chance.random() < 0.03:
            amount = chance.choice([None, 0, -7, 2**53, 2**53 - 1])
        if chance.random() < 0.03:
            tenant = chance.choice(TENANTS)
        expires = chance.choice([None, None, 5, 60]) if kind is Kind.HOLD else None
        return Order(
            tenant,
            kind,
            account,
            amount,
            key,
            counter,
            target,
            expires,
            chance.random() < 0.3,
            None,
        )

    async def run_batch(self, orders: list[Order]) -> None:
        """Let both decide, and compare every verdict and every account."""
        self.now += timedelta(seconds=7)
        expires_at = [
            o.expires_in_s and self.now + timedelta(seconds=o.expires_in_s) for o in orders
        ]
        columns = columns_of(orders, [e or None for e in expires_at])
        async with self.world.database.connection() as connection:
            row = await post_batch(connection, self.now, columns)
        together = [(o, e or None) for o, e in zip(orders, expires_at, strict=True)]
        verdicts = self.model.post_batch(together, now=self.now)
        for index, (order, expected) in enumerate(zip(orders, verdicts, strict=True)):
            assert verdict_at(row, index, expected) == expected, (index, order)
            if expected.outcome == "posted":
                assert expected.seq is not None
                self.posted.append((order.tenant, order.account, expected.seq))
                self.keys.append(order)
            self.steps += 1
        await self.compare_accounts()

    async def compare_accounts(self) -> None:
        """Every stored number equals the model's."""
        superuser = await self.world.as_superuser()
        rows = await superuser.fetch("SELECT * FROM steelyard.account WHERE kind = 'held'")
        await superuser.close()
        for row in rows:
            mine = self.model.accounts[TenantId(row["tenant_id"]), AccountId(row["id"])]
            stored = Standing(
                row["currency"],
                row["posted"],
                row["held"],
                row["floor"],
                row["seq"],
                row["total_recharged"],
                row["total_spent"],
                row["suspended"],
            )
            assert stored == mine, row["id"]


def verdict_at(row: Any, index: int, expected: Verdict) -> Verdict:
    """Read one verdict; a refusal's standing is compared only where the model states one."""
    outcome = row["r_outcome"][index]
    if outcome in ("posted", "replayed"):
        names = ("r_seq", "r_amount", "r_balance_after", "r_held_after")
        return Verdict(outcome, *(row[name][index] for name in names))
    if outcome == "counter_insufficient_funds" or expected.balance_after is None:
        return Verdict(
            outcome, balance_after=expected.balance_after, held_after=expected.held_after
        )
    return Verdict(outcome, None, None, row["r_balance_after"][index], row["r_held_after"][index])


async def run_history(world: World, seed: int, steps: int) -> int:
    """Run one random history in random batches; a failure names its seed."""
    chance = random.Random(seed)
    history = await History.begin(world, chance)
    while history.steps < steps:
        size = chance.choice([1, 1, 2, 5, 17, 64])
        await history.run_batch([history.order(chance) for _ in range(size)])
    return history.steps


@pytest.mark.parametrize("seed", range(6))
async def test_function_and_model_agree_on_random_histories(world: World, seed: int) -> None:
    assert await run_history(world, seed, 1_500) >= 1_500


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(100, 112))
async def test_function_and_model_agree_on_fifty_thousand_steps(world: World, seed: int) -> None:
    assert await run_history(world, seed, 5_000) >= 5_000


@given(start=st.integers(0, 1_000), amounts=st.lists(st.integers(1, 400), max_size=30))
@settings(max_examples=200)
def test_no_sequence_of_charges_overdraws(start: int, amounts: list[int]) -> None:
    model, place = LedgerModel(), (TENANTS[0], AccountId(1))
    model.accounts[place] = account = Standing("GBP", posted=start)
    orders = [
        Order(*place[:1], Kind.CHARGE, place[1], amount, key=str(i))
        for i, amount in enumerate(amounts)
    ]
    accepted = [o.amount or 0 for o in orders if model.post(o, now=START).outcome == "posted"]
    assert account.posted == start - sum(accepted)
    assert account.posted >= 0
