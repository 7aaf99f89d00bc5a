"""A server that is told to end finishes what it took, and what it answered is true."""

import asyncio
import signal
from pathlib import Path

import httpx2

from steelyard.runtime.database import Connection
from tests.e2e.scene import Scene
from tests.e2e.server_kit import bearer, key, start_server
from tests.world import FreshDatabase


async def test_every_charge_that_was_answered_is_in_the_ledger_after_the_end(
    shared_database: FreshDatabase, superuser: Connection, tmp_path: Path
) -> None:
    server = await start_server(shared_database.app_url, tmp_path)
    scene = Scene(server, superuser)
    owned = await scene.own(1_000_000)
    path = f"/api/accounts/{owned.account}/charges"
    accepted: list[str] = []

    async def charge_until_it_ends() -> None:
        while True:
            headers = {**bearer(), **key()}
            try:
                answer = await server.call("POST", path, json={"amount": 1}, headers=headers)
            except httpx2.HTTPError:
                return
            if answer.status_code == 503:
                return
            assert answer.status_code == 201
            accepted.append(answer.json()["transaction"])

    callers = [asyncio.create_task(charge_until_it_ends()) for _ in range(16)]
    await asyncio.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*callers)
    await asyncio.to_thread(server.process.wait, 20)
    await server.client.aclose()
    assert len(accepted) > 16
    assert len(set(accepted)) == len(accepted)
    posted = await superuser.fetchval(
        "SELECT count(*) FROM steelyard.change WHERE account_id = $1 AND kind = 'charge'",
        int(owned.account),
    )
    assert posted >= len(accepted)
    assert posted - len(accepted) <= 16  # taken, but its answer was cut off
    assert '"event":"server.stopped"' in server.log_lines()[-1]
    assert not [line for line in server.log_lines() if '"level":"error"' in line]
