"""`steelyard up`: one command, and everything runs; whatever happened before."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from steelyard.cli.demo_bank import DemoBooks, next_entry
from steelyard.cli.demo_people import PEOPLE, WALLET
from steelyard.cli.purchase_file import reader_of
from steelyard.core.errors import NotFound
from steelyard.ledger.purchases import Purchase
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.datafolder import open_folder
from steelyard.runtime.redis.connect import RedisServer, ask_all
from steelyard.runtime.valkey import find_running_valkey
from tests.e2e.cli_kit import SHIPPED, Up, command, steelyard


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` on a fresh folder, with the demo data."""
    started = Up.start(tmp_path_factory.mktemp("up") / "data")
    started.wait_ready()
    yield started
    assert started.end(signal.SIGINT) == 0, started.log.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(started.process.pid, 0)
    assert not (started.folder / "postgres" / "postmaster.pid").exists()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Start `up` on one folder, again and again; whatever still runs at the end is ended."""
    started: list[Up] = []

    def begin(*options: str) -> Up:
        started.append(Up.start(tmp_path / "data", *options))
        return started[-1]

    yield begin
    for up in started:
        if up.process.poll() is None:
            up.end()


def admin(up: Up) -> dict[str, str]:
    """Return an admin's header, from `steelyard token`."""
    made = command("token", "--user", "boss", "--role", "admin", "--data-dir", up.folder)
    assert made.code == 0, made.err
    assert len(made.out.splitlines()) == 1
    return {"Authorization": f"Bearer {made.out.strip()}"}


def list_cards(up: Up) -> dict[str, dict[str, Any]]:
    """Return every card's account by its reference."""
    found: dict[str, dict[str, Any]] = {}
    query: dict[str, str] = {"limit": "100"}
    with httpx2.Client(base_url=up.url, headers=admin(up), timeout=30) as client:
        while True:
            page = client.get("/api/accounts", params=query).json()
            found |= {one["reference"]: one for one in page["data"] if one["kind"] == "held"}
            if not page.get("next_cursor"):
                return found
            query["cursor"] = page["next_cursor"]


def test_a_fresh_folder_holds_the_month_and_a_second_import_changes_nothing(running: Up) -> None:
    currency = find_currency("GBP")
    net: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for line in reader_of(SHIPPED, SHIPPED.name, currency)():
        assert isinstance(line, Purchase)
        net[line.card] += line.amount.minor
        spent[line.card] += max(line.amount.minor, 0)
    before = list_cards(running)
    assert {name: one["posted"] for name, one in before.items()} == {
        f"card-{card}": spent[card] - net[card] for card in net
    }
    again = command("import", SHIPPED, "--topup", "--json", "--data-dir", running.folder)
    assert again.code == 0, again.err
    assert (again.json["already_there"], again.json["topped_up"], again.json["lines"]) == (
        3923,
        0,
        3923,
    )
    assert list_cards(running) == before


def test_a_token_opens_what_its_role_may_and_no_more(running: Up) -> None:
    made = command(
        "token", "--user", "card-1", "--ttl", "60", "--json", "--data-dir", running.folder
    )
    assert made.json["expires_in_s"] == 60
    user = {"Authorization": f"Bearer {made.json['token']}"}
    mine = httpx2.get(f"{running.url}/api/accounts", headers=user).json()["data"]
    assert [one["reference"] for one in mine] == ["card-1"]
    foreign = str(int(mine[0]["account"]) + 1)
    assert httpx2.get(f"{running.url}/api/accounts/{foreign}", headers=user).status_code == 404
    assert httpx2.get(f"{running.url}/api/accounts").status_code == 401


def test_a_second_instance_on_the_folder_is_refused_and_the_first_goes_on(running: Up) -> None:
    second = steelyard("up", "--data-dir", running.folder, "--json")
    assert (second.code, second.problem["code"]) == (1, "data_folder_in_use")
    assert f"process {running.process.pid}" in second.problem["detail"]
    assert running.status() == 200


def test_a_taken_port_is_refused_before_anything_is_made(running: Up, tmp_path: Path) -> None:
    folder = tmp_path / "never"
    second = command("up", "--data-dir", folder, "--port", running.port)
    assert second.code == 1
    assert f"port {running.port} on 127.0.0.1 is taken" in second.err
    assert "[port_taken]" in second.err
    assert not folder.exists()


def test_doctor_finds_nothing_wrong_beside_a_running_instance(running: Up) -> None:
    looked = command("doctor", "--json", "--data-dir", running.folder)
    findings = {one["name"]: one for one in looked.json["findings"]}
    assert (looked.code, looked.json["ok"]) == (0, True)
    assert findings["wall between tenants"]["what"].startswith("row-level security binds")
    assert findings["database"]["what"].startswith("PostgreSQL 1")


def test_secrets_are_readable_by_their_owner_only(running: Up) -> None:
    files = list((running.folder / "secrets").iterdir())
    assert {file.name for file in files} == {
        "postgres-app-password",
        "postgres-root-password",
        "token-secret",
    }
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_tenants_users_and_keys_are_made_beside_a_running_instance(running: Up) -> None:
    at = ("--data-dir", running.folder, "--json")
    assert command("tenant", "create", "acme", "--currency", "ZMW", *at).code == 0
    assert command("tenant", "create", "acme", *at).code == 4
    assert {one["tenant"] for one in command("tenant", "list", *at).json} == {"acme", "default"}
    user = command("user", "add", "ann", "--tenant", "acme", "--currency", "ZMW", *at).json
    assert user["created"] is True
    key = command("key", "create", "till", "--tenant", "acme", *at).json
    header = {"Authorization": f"Bearer {key['key']}"}
    seen = httpx2.get(f"{running.url}/api/accounts/{user['account']}", headers=header)
    assert (seen.status_code, seen.json()["currency"]) == (200, "ZMW")
    assert command("key", "revoke", key["id"], "--tenant", "acme", *at).json["revoked_at"]
    assert command("key", "list", "--tenant", "acme", *at).json[0]["revoked_at"]
    missing = command("key", "revoke", "0000000000000000", "--tenant", "acme", *at)
    assert (missing.code, missing.problem["code"]) == (3, NotFound.code)


def test_after_kill_9_of_anything_it_goes_on(start: Callable[..., Up]) -> None:
    first = start("--no-demo")
    first.wait_ready()
    header = admin(first)
    old = first.postgres_pid()
    os.kill(old, signal.SIGKILL)
    first.wait_log("is back (process")
    first.wait_ready()
    assert first.postgres_pid() != old
    first.kill()

    adopting = start()
    adopting.wait_ready()
    assert "adopted the running PostgreSQL" in adopting.log.read_text()
    os.kill(adopting.postgres_pid(), signal.SIGKILL)
    adopting.kill()

    last = start()
    last.wait_ready()
    accounts = httpx2.get(f"{last.url}/api/accounts", headers=header)
    assert (accounts.status_code, len(accounts.json()["data"])) == (200, 3), (
        "the token still counts"
    )
    assert last.end() == 0
    assert "demo data" not in last.log.read_text()


async def test_up_brings_a_valkey_that_its_server_fills_and_listens_to(running: Up) -> None:
    url = await find_running_valkey(running.folder)
    assert url is not None
    connection = await RedisServer(url).connect("test")
    try:
        headers = admin(running)
        async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
            await client.post("/api/users", json={"id": "valkey-user"})
            wanted = {"user": "valkey-user", "currency": "GBP"}
            opened = await client.post("/api/accounts", json=wanted)
            assert opened.status_code == 201, opened.text
            account = opened.json()["account"]
            paid = await client.post(
                f"/api/accounts/{account}/recharges",
                json={"amount": 15_050},
                headers={"Idempotency-Key": "valkey"},
            )
            assert paid.status_code == 201, paid.text
        commands = [("PUBSUB", "NUMSUB", "balance:updates"), ("GET", "balance:user:valkey-user")]
        async with asyncio.timeout(10):
            while True:
                subscribers, number = await ask_all(connection, commands, deadline_s=5)
                if (subscribers, number) == ([b"balance:updates", 1], b"150.5"):
                    break
                await asyncio.sleep(0.05)
    finally:
        await connection.disconnect(nowait=True)


class Bank:
    """The demo's core bank beside a running `up`, and the users whose money is there."""

    def __init__(self, up: Up) -> None:
        self.up, self.headers = up, admin(up)

    def steer(self, *options: str) -> Any:
        """Steer it by the command."""
        done = command("simulate", "t24", *options, "--json", "--data-dir", self.up.folder)
        assert done.code == 0, done.err
        return done.json

    def truth(self) -> dict[str, int]:
        """What every account truly has, in minor units, by its number."""
        told = self.steer("--truth")
        return {number: one["balances"]["available"] for number, one in told.items()}

    def users(self) -> Any:
        """The users as the page lists them."""
        answer = httpx2.get(f"{self.up.url}/api/sync/users", headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def log_in(self, user: str) -> Any:
        """Log a user in."""
        path = f"{self.up.url}/api/sync/users/{user}/login"
        return httpx2.post(path, headers=self.headers, timeout=30).json()

    def wait_users(self, is_so: Callable[[Any], bool]) -> None:
        """Wait until something is true of the users."""
        until_s = time.monotonic() + 60
        while not is_so(self.users()):
            assert time.monotonic() < until_s, self.users()
            time.sleep(0.1)


def test_balances_at_the_demos_bank_are_mirrored_and_a_wallet_user_is_never_asked_for(
    running: Up,
) -> None:
    bank = Bank(running)
    running.wait_log("Core bank           simulated, read every 10 s")
    bank.wait_users(lambda told: all(one["state"] == "fresh" for one in told["data"]))
    told = bank.users()
    assert told["source"]["state"] == "asked"
    assert [one["user"] for one in told["data"]] == sorted(one.user for one in PEOPLE)
    bank.steer("--post", "4000000101=1234.56")
    answer = bank.log_in("demo-mutale")
    assert (answer["ok"], answer["currency"], answer["reason"]) == (True, "ZMW", None)
    account = next(one for one in bank.users()["data"] if one["user"] == "demo-mutale")
    assert account["accounts"][0]["balance"] >= 842_050 + 123_456 - 100_000
    refused = bank.log_in(WALLET.user)
    assert (refused["ok"], refused["balance"], refused["reason"]) == (False, None, "wallet")
    asked = {number: one["asked"] for number, one in bank.steer("--truth").items()}
    assert asked.pop(WALLET.accounts[0].number) == 0
    assert min(asked.values()) >= 1


def test_a_demo_bank_that_is_broken_by_hand_is_told_honestly_and_recovers(running: Up) -> None:
    bank = Bank(running)
    before = bank.log_in("demo-ruth")
    assert before["ok"], before
    bank.steer("--break", "hang", "--for", "60")
    try:
        late = bank.log_in("demo-ruth")
        assert (late["ok"], late["queued"], late["reason"]) == (False, True, "timeout")
        assert late["balance"] is not None
    finally:
        bank.steer("--repair")
    bank.wait_users(lambda told: all(one["state"] == "fresh" for one in told["data"]))


@pytest.mark.slow
def test_after_kill_9_the_demos_bank_goes_on_and_without_the_demo_nobody_is_asked_for(
    start: Callable[..., Up],
) -> None:
    first = start()
    first.wait_ready()
    told = Bank(first).steer("--post", "4000000401=-1000.05")
    assert (told["account"], told["currency"]) == ("4000000401", "ZMW")
    first.kill()
    at_kill = DemoBooks.open(open_folder(first.folder), {})

    second = start()
    second.wait_ready()
    truth = Bank(second).truth()
    assert second.end() == 0
    at_end = DemoBooks.open(open_folder(first.folder), {})
    seen = []
    for moved in range(at_kill.moved, at_end.moved + 1):
        seen.append({number: one.booked for number, one in at_kill.books.accounts.items()})
        at_kill.books.post(*next_entry(at_kill.books, moved))
    assert truth in seen, "every balance is where its entries lead"
    assert seen[-1] == {number: one.booked for number, one in at_end.books.accounts.items()}

    declined = start("--no-demo", "--json")
    declined.wait_ready()
    assert Bank(declined).users()["data"] == []
    assert Bank(declined).users()["source"]["state"] == "off"
    none = command("simulate", "t24", "--truth", "--data-dir", declined.folder)
    assert (none.code, "no demo bank runs on" in none.err) == (1, True)
