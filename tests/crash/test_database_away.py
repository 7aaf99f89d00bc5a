"""With the database away money is refused plainly and in time, and comes back by itself."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from tests.crash.conftest import Announce
from tests.crash.history import Asked, Done
from tests.crash.http_target import HttpTarget, Problem
from tests.crash.postgres import PostgresUnderFire
from tests.crash.run import open_books

ANSWER_WITHIN_S = 3.0
BACK_WITHIN_S = 10.0
AWAY_S = 4.0


async def _post(target: HttpTarget, account: int, key: str) -> tuple[int, str, float]:
    """Charge 1; return status, code and seconds."""
    began_s = time.monotonic()
    spoken = await target.request(
        0, "POST", f"/api/accounts/{account}/charges", body=b'{"amount":1}', key=key
    )
    code = "" if spoken.status < 300 else msgspec.json.decode(spoken.body, type=Problem).code
    return spoken.status, code, time.monotonic() - began_s


@pytest.mark.timeout(180)
async def test_money_answers_503_in_time_while_the_database_is_away_and_recovers(
    own_postgres: PostgresUnderFire, folder: Path, announce: Announce
) -> None:
    postgres = own_postgres
    await postgres.wait_ready()
    place = await postgres.fresh()
    [account] = await open_books(place, 1)
    target = HttpTarget(folder, place.app_url, count=1)
    try:
        await target.start_all()
        opening = await target.send(0, Asked("recharge", account, 100, "opening"))
        assert isinstance(opening, Done)
        assert (await _post(target, account, "before"))[0] == 201

        await postgres.stop_now()
        try:
            answers: list[tuple[int, str, float]] = []
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                keys = [f"away-{len(answers)}-{number}" for number in range(8)]
                answers += await asyncio.gather(*(_post(target, account, key) for key in keys))
        finally:
            await postgres.start_again()
        slowest_s = max(took_s for _, _, took_s in answers)
        assert {(status, code) for status, code, _ in answers} == {(503, "database_unavailable")}
        assert slowest_s < ANSWER_WITHIN_S

        began_s = time.monotonic()
        while (await _post(target, account, "after"))[0] not in (200, 201):
            assert time.monotonic() - began_s < BACK_WITHIN_S
            await asyncio.sleep(0.05)
        back_s = time.monotonic() - began_s
        assert target.processes[0].starts == 1  # the same process: it recovered by itself
        standing = await target.read(0, account)
        assert standing is not None
        assert 100 - 2 - len(answers) <= standing.posted <= 100 - 2
        announce(
            f"database away: {len(answers)} charges answered 503 database_unavailable, the slowest after "
            f"{slowest_s:.2f} s; back {back_s:.2f} s after PostgreSQL"
        )
    finally:
        await target.close()
        await postgres.drop(place)
