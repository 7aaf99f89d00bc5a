"""The Python of the page on core banking, run as it stands: on a real database, with a simulated bank over HTTP."""

import re
from pathlib import Path
from typing import Any

import pytest

import steelyard
from steelyard.opened import Steelyard
from steelyard.providers.t24.simulator.faults import Fault
from tests.e2e.cli_kit import ROOT
from tests.e2e.providers.bank_kit import KEY, OVERDRAWN, opened
from tests.socket_kit import until
from tests.world import FreshDatabase

PAGE = ROOT / "docs/how-to/sync-core-banking.md"
REFERENCED = (
    "balanceSyncService.start()",
    "balanceSyncService.stop()",
    "balanceSyncService.syncWithTimeout(",
    "balanceSyncService.queueSync(",
    "balanceSyncService.getStatus()",
)


def functions_of(page: Path) -> dict[str, Any]:
    """Everything the page's Python blocks define."""
    found: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec("\n\n".join(blocks), found)
    return found


def test_every_call_of_the_reference_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert [call for call in REFERENCED if call not in text] == []


async def test_the_pages_python_does_what_the_page_says(
    fresh: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = functions_of(PAGE)
    async with opened() as scene:
        assert scene.server is not None
        for name, value in (
            ("STEELYARD_DATABASE_URL", fresh.app_url),
            ("T24_API_URL", scene.server.url),
            ("T24_API_KEY", KEY),
            ("BALANCE_SYNC_INTERVAL", "0"),
            ("QUEUE_PROCESS_INTERVAL", "100"),
        ):
            monkeypatch.setenv(name, value)
        await page["with_a_worker"]()
        assert scene.bank.counts.requests == 0  # nobody is there to be asked for
        async with steelyard.open() as s:
            assert isinstance(s, Steelyard)
            assert await page["enroll"](s) == ["created", "created"]
            assert await page["enroll"](s) == ["unchanged", "unchanged"]
            s.balance_sync.start()
            assert await page["balance_at_login"](s, "ann") == "-18.25 GBP"
            assert await page["balance_at_login"](s, "wallet") == "0"
            assert set(scene.bank.counts.asked) == {OVERDRAWN.number}

            asked = scene.bank.counts.requests
            assert await page["after_a_transaction"](s, "ann") is True
            await until(lambda: scene.bank.counts.requests > asked)
            scene.fail(Fault.HANG)
            assert await page["balance_at_login"](s, "ann") == "-18.25"
            assert await page["tell_status"](s) in (
                "Priority: 0, background: 0, processing: Yes",
                "Priority: 1, background: 0, processing: Yes",
            )
            await scene.heal()
            await page["start_and_stop"](s)
            assert not s.services.sync.is_working
