"""The month that `up` replays: for watched cards alone, each purchase once a round, whatever is interrupted."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest_asyncio

from steelyard.balances.model import NewAccount
from steelyard.balances.store import list_changes_since, open_accounts
from steelyard.cli.replay_month import Month, Replay, ReplayPorts
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.datafolder import DemoState, ProductFolder, note_demo_state, open_folder
from tests.world import World

DAYS = 31


@dataclass
class Scene:
    """A ledger, and a folder whose demo data is loaded."""

    world: World
    folder: ProductFolder

    async def open_card(self, reference: str, *, currency: str = "GBP") -> AccountId:
        """Open an account with a reference."""
        user = await self.world.open_account()
        owner = (await self.world.balance(user)).user
        assert owner is not None
        wanted = NewAccount(UserId(owner), find_currency(currency), reference=reference)
        async with self.world.database.unit_of_work(DEFAULT_TENANT) as uow:
            [(account, _)] = await open_accounts(uow, [wanted], now=self.world.clock.now())
        return account

    def note(self, day: int) -> None:
        """Put the calendar to a day, counted from the first round's first."""
        (self.folder.path / "replay.json").write_text(json.dumps({"day": day}))

    def day(self) -> int:
        """The day the calendar is at."""
        try:
            return int(json.loads((self.folder.path / "replay.json").read_text())["day"])
        except FileNotFoundError:
            return 0

    async def play(self, *places: AccountId | tuple[TenantId, AccountId], until_day: int) -> None:
        """Watch some accounts until the calendar is at a day, in a process of its own and at no pace at all."""
        watched = [one if isinstance(one, tuple) else (DEFAULT_TENANT, one) for one in places]
        ports = ReplayPorts(
            self.world.database,
            self.world.commit,
            self.world.reader,
            lambda: watched if self.day() < until_day else (),
        )
        async with asyncio.timeout(60):
            await Replay(ports, self.folder, day_s=0.0).turn()

    async def kinds(self, account: AccountId) -> Counter[str]:
        """How often each kind of change is in an account's history."""
        async with self.world.database.unit_of_work(DEFAULT_TENANT) as uow:
            changes = await list_changes_since(uow, account, after_seq=0, limit=500)
        return Counter(change.kind for change in changes)


@pytest_asyncio.fixture
async def scene(world: World, tmp_path: Path) -> Scene:
    folder = open_folder(tmp_path / "data")
    note_demo_state(folder, DemoState.LOADED)
    return Scene(world, folder)


def expected(card: str) -> tuple[Counter[str], int]:
    """What one round posts on a card that has nothing, and what is left at its end."""
    month = Month.read()
    amounts = [one.amount.minor for day in month.days for one in day.get(card, ())]
    kinds = Counter("charge" if amount > 0 else "refund" for amount in amounts)
    return kinds + Counter({"recharge": 1}), month.needed[card] - sum(amounts)


async def test_a_watched_card_lives_its_month_and_others_stay_still(scene: Scene) -> None:
    card, other = await scene.open_card("card-206"), await scene.open_card("card-134")
    await scene.play(card, until_day=DAYS)
    kinds, left = expected("card-206")
    assert kinds["charge"] > 30
    assert scene.day() == DAYS
    assert await scene.kinds(card) == kinds
    assert (await scene.world.balance(card)).posted == left
    assert await scene.kinds(other) == Counter()


async def test_a_day_that_is_played_again_posts_nothing_twice_and_a_new_round_posts_anew(
    scene: Scene,
) -> None:
    card = await scene.open_card("card-206")
    await scene.play(card, until_day=DAYS)
    kinds, left = expected("card-206")
    scene.note(0)  # as if the process had died before it could note how far it was
    await scene.play(card, until_day=DAYS)
    assert await scene.kinds(card) == kinds
    await scene.play(card, until_day=2 * DAYS)
    again = await scene.kinds(card)
    assert again - Counter({"recharge": again["recharge"]}) == Counter(
        {kind: count * 2 for kind, count in kinds.items() if kind != "recharge"}
    )
    assert (await scene.world.balance(card)).posted >= left


async def test_a_card_that_was_emptied_is_refused_and_the_month_goes_on(scene: Scene) -> None:
    card = await scene.open_card("card-206")
    await scene.play(card, until_day=10)
    left = (await scene.world.balance(card)).available
    await scene.world.ledger().charge(card, left)
    before = await scene.kinds(card)
    await scene.play(card, until_day=20)
    assert scene.day() == 20
    assert await scene.kinds(card) - before - Counter({"refund": 99}) == Counter()
    assert any(one.event == "balance_insufficient" for one in scene.world.heard.events)


async def test_what_is_no_card_of_the_demo_is_left_alone(scene: Scene) -> None:
    await scene.world.make_tenant(TenantId("other"), "GBP")
    await scene.world.make_tenant(DEFAULT_TENANT, "JPY")
    foreign = await scene.world.open_account(tenant=TenantId("other"))
    plain = await scene.open_card("till-206")
    yen = await scene.open_card("card-206", currency="JPY")
    await scene.play((TenantId("other"), foreign), plain, yen, until_day=1)
    assert not (scene.folder.path / "replay.json").exists()
    assert await scene.kinds(plain) + await scene.kinds(yen) == Counter()


async def test_nothing_is_replayed_before_the_demo_data_is_loaded(scene: Scene) -> None:
    card = await scene.open_card("card-206")
    note_demo_state(scene.folder, DemoState.LOADING)
    await scene.play(card, until_day=1)
    assert await scene.kinds(card) == Counter()
