"""A source that nothing may be asked of is not looked for again and again."""

from datetime import timedelta

from steelyard.core.ids import DEFAULT_TENANT
from tests.sync_kit import BANK, open_sync_world
from tests.world import World

LOOK_EVERY_S = 3.0
SHUT = (
    ("blocked_until = $3", 60),
    ("blocked_until = NULL, circuit = 'open', circuit_until = $3", 60),
    ("circuit = 'half_open', circuit_until = $3", -1),
)


async def test_a_shut_source_is_looked_at_once_in_each_interval(world: World) -> None:
    made = await open_sync_world(world)
    await made.enroll(["ann", "ben"])
    await made.make_due()
    worker = made.worker(look_every_s=LOOK_EVERY_S, slots=8)
    await made.lease(most=1)  # a probe is on its way
    for change, value_s in SHUT:
        async with made.database.unit_of_work(DEFAULT_TENANT) as uow:
            moment = made.clock.now() + timedelta(seconds=value_s)
            await uow.execute(
                f"UPDATE steelyard.provider_budget SET {change} WHERE tenant_id = $1 AND provider = $2",
                DEFAULT_TENANT,
                BANK,
                moment,
            )
        assert await worker.turn() == LOOK_EVERY_S
    assert not made.bank.asked


async def test_a_shut_source_is_looked_at_when_it_opens(world: World) -> None:
    made = await open_sync_world(world)
    await made.enroll(["ann"])
    await made.make_due()
    worker = made.worker(look_every_s=LOOK_EVERY_S)
    for moment in ("blocked_until = $3", "circuit = 'open', circuit_until = $3"):
        async with made.database.unit_of_work(DEFAULT_TENANT) as uow:
            await uow.execute(
                f"UPDATE steelyard.provider_budget SET {moment} WHERE tenant_id = $1 AND provider = $2",
                DEFAULT_TENANT,
                BANK,
                made.clock.now() + timedelta(seconds=2),
            )
        assert 0 < await worker.turn() <= 2
    assert not made.bank.asked
