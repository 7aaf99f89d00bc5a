"""A server with the whole product, for these tests: `python -m tests.race.sync.server_process PORT LEASE_S PLANTED`.

Two things differ from `serve`, and both are functions replaced here, since the product has no switch for them: its leases
are as short as asked for, so that what must happen within a lease happens within a test; and it may have one planted
mistake, to show that the tests notice it.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from steelyard.app import create_app_from_environment, server_options
from steelyard.cli.serving import LiveServer
from steelyard.core.errors import DatabaseUnavailable
from steelyard.mirror import store as mirror_store
from steelyard.runtime import database
from steelyard.runtime.settings import load_settings
from steelyard.sync import fetch_balances as fetching
from steelyard.sync import open_sync, raise_target, run_targets
from steelyard.sync.run_targets import SyncWorker
from steelyard.sync.sync_with_timeout import LoginSync

WRITE_SHARE = 0.4
SHIPPED_LEASE_S = 30.0


def shorten_leases(lease_s: float) -> None:
    """Let leases last so long, with what has to be shorter: a part of each is for writing, locks of sleepers end before."""
    shipped = open_sync.plan_of

    def plan_of(*arguments: Any, **named: Any) -> Any:
        plan = shipped(*arguments, **named)
        write_s = lease_s * WRITE_SHARE
        return dataclasses.replace(plan, fetch_deadline_s=lease_s - write_s, write_s=write_s)

    open_sync.plan_of = plan_of
    database.IDLE_IN_UNIT_OF_WORK_S *= lease_s / SHIPPED_LEASE_S


def answer_late() -> None:
    """A login waits half a second longer than it may."""
    shipped = LoginSync.sync_with_timeout

    async def sync_with_timeout(self: LoginSync, *arguments: Any, **named: Any) -> Any:
        self.timeout_s = 2.5
        return await shipped(self, *arguments, **named)

    LoginSync.sync_with_timeout = sync_with_timeout  # type: ignore[method-assign]


def ask_for_everybody() -> None:
    """Nobody looks whether a user is a WALLET user."""
    raise_target.refusal_of = lambda standing: None  # type: ignore[attr-defined]
    wanted = "AND w.context = 'MOBILE_BANKING' AND w.status = 'active'"
    assert wanted in mirror_store._ACCOUNTS
    mirror_store._ACCOUNTS = mirror_store._ACCOUNTS.replace(wanted, "")


def ask_without_deadline() -> None:
    """A worker that wakes goes on with what it has, however old."""
    shipped = fetching.fetch_balances

    async def fetch_balances(
        provider: Any, lease: Any, accounts: Any, asking: fetching.Asking
    ) -> Any:
        patient = dataclasses.replace(asking, deadline_s=600.0, request_s=600.0)
        return await shipped(provider, lease, accounts, patient)

    run_targets.fetch_balances = fetch_balances  # type: ignore[attr-defined]


def give_up_without_database() -> None:
    """The worker ends when the database is away."""
    shipped = SyncWorker.turn

    async def turn(self: SyncWorker) -> float:
        try:
            return await shipped(self)
        except DatabaseUnavailable:
            self._stopping = True
            raise

    SyncWorker.turn = turn  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "answers late": answer_late,
    "asks for everybody": ask_for_everybody,
    "asks without deadline": ask_without_deadline,
    "gives up without database": give_up_without_database,
}


def main() -> None:
    """Serve until SIGTERM."""
    port, lease_s, planted = sys.argv[1:]
    shorten_leases(float(lease_s))
    PLANTED[planted]()
    options = server_options(load_settings())
    config = uvicorn.Config(create_app_from_environment(), port=int(port), **options)
    LiveServer(config).run()


if __name__ == "__main__":
    main()
