"""The client keeps the contract in every dialect, on a bank over real HTTP and on one in memory."""

import pytest

from steelyard.providers.t24.simulator.bank import BankOptions
from steelyard.providers.t24.simulator.faults import Fault
from steelyard.testing.provider_contract import (
    PROVIDER_CONTRACT,
    Ailment,
    ProviderCheck,
    ProviderUnderTest,
)
from tests.e2e.providers.bank_kit import (
    DIALECTS,
    KEY,
    LARGE,
    OVERDRAWN,
    UNKNOWN,
    YEN,
    Scene,
    opened,
    target_of,
)

FAULTS = {
    Ailment.RESET: Fault.RESET,
    Ailment.HANGING: Fault.HANG,
    Ailment.DRIBBLING: Fault.DRIBBLE,
    Ailment.CUT_OFF: Fault.TRUNCATE,
    Ailment.OUTAGE: Fault.STATUS_500,
    Ailment.RATE_LIMITED: Fault.RATE_LIMIT,
    Ailment.BAD_CREDENTIAL: Fault.UNAUTHORISED,
    Ailment.NOT_PERMITTED: Fault.FORBIDDEN,
    Ailment.NOT_READABLE: Fault.CUT_JSON,
    Ailment.UNKNOWN_FAILURE: Fault.STATUS_418,
    Ailment.BAD_VALUES: Fault.NOT_A_NUMBER,
}


def under_test(scene: Scene) -> ProviderUnderTest:
    """The client and the bank behind it."""

    async def ail(ailment: Ailment) -> None:
        if ailment is Ailment.UNREACHABLE:
            await scene.refuse()
        else:
            scene.fail(FAULTS[ailment], wait_s=0.02)

    return ProviderUnderTest(
        scene.client,
        target_of(OVERDRAWN, YEN, LARGE),
        UNKNOWN,
        scene.truth,
        ail,
        scene.heal,
        secrets=(KEY, "700001"),
    )


@pytest.mark.parametrize("check", PROVIDER_CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("in_memory", [False, True], ids=["http", "memory"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_contract_is_kept(dialect: str, in_memory: bool, check: ProviderCheck) -> None:
    async with opened(dialect, in_memory=in_memory) as scene:
        await check(under_test(scene))
        assert scene.bank.counts.in_flight == 0


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_contract_is_kept_when_amounts_are_json_numbers(dialect: str) -> None:
    options = BankOptions(key=KEY, has_number_amounts=True)
    async with opened(dialect, in_memory=True, options=options) as scene:
        for check in PROVIDER_CONTRACT[:4]:
            await check(under_test(scene))
