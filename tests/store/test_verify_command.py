"""`steelyard verify`: what it prints, and how it ends."""

import asyncio
import io
import json
from pathlib import Path

import pytest

from steelyard.__main__ import load_program
from steelyard.cli.main import main
from tests.store.reconcile_kit import tampering
from tests.world import World

Output = pytest.CaptureFixture[str]


@pytest.fixture
async def falsified(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """User 5 stores 5,000.00 where the changes say 4,500.00; user 6 is in order."""
    monkeypatch.setenv("STEELYARD_DATABASE_URL", world.fresh.app_url)
    account = await world.open_account(450_000, user="5")
    await world.open_account(10, user="6")
    async with tampering(world) as connection:
        await connection.execute("UPDATE account SET posted = 500000 WHERE id = $1", account)
    return world


async def run(*arguments: str) -> int:
    """Run a command as a process would, beside this event loop."""
    return await asyncio.to_thread(main, list(arguments), load_program)


async def test_report_prints_the_reference_lines_and_ends_with_6(
    falsified: World, capsys: Output
) -> None:
    assert await run("verify") == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["Checked: 2 users", "✅ Synced: 1 users", "⚠️  Fixed: 0 users"]
    assert lines[4] == "Discrepancies found:"
    cells = [[cell.strip() for cell in line.split("│")] for line in lines[5:]]
    assert cells[0][1:5] == ["User ID", "Stored Balance", "Actual Balance", "Difference"]
    assert sorted(cell[1:5] for cell in cells[2:]) == [
        ["5", "5,000.00", "4,500.00", "500.00"],
        ["book", "500.00", "0.00", "500.00"],
    ]
    assert all("MISMATCH" in line for line in lines[7:])


async def test_fix_that_repaired_all_ends_with_0(falsified: World, capsys: Output) -> None:
    assert await run("balance:verify-sync", "--fix") == 0
    assert "⚠️  Fixed: 1 users" in capsys.readouterr().out
    assert await run("verify") == 0
    assert capsys.readouterr().out.splitlines()[0:2] == ["Checked: 2 users", "✅ Synced: 2 users"]


async def test_dry_run_repairs_nothing(falsified: World, capsys: Output) -> None:
    assert await run("verify", "--fix", "--dry-run") == 6
    assert await run("verify", "--rebuild", "--dry-run") == 6


async def test_one_user_alone_is_verified_and_fixed(falsified: World, capsys: Output) -> None:
    assert await run("verify", "--user-id", "6") == 0
    assert await run("verify", "--user-id", "5", "--fix", "--json") == 0
    printed = capsys.readouterr().out
    told = json.loads(printed[printed.index("{") :])
    assert (told["checked"], told["fixed"], told["errors"]) == (1, 1, [])
    assert [one["fault"] for one in told["details"]] == ["balance"]
    assert await run("verify", "--user-id", "nobody") == 3


async def test_rebuild_asks_and_yes_answers(
    falsified: World, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert await run("verify", "--rebuild") == 130
    assert await run("verify") == 6
    assert await run("verify", "--rebuild", "--yes") == 0
    assert await run("verify") == 0


async def test_options_that_say_two_things_are_refused(falsified: World, capsys: Output) -> None:
    for options in (["--rebuild", "--fix"], ["--incremental", "--user-id", "5"], ["--dry-run"]):
        assert await run("verify", *options) == 2


async def test_incremental_proves_only_what_moved(falsified: World, capsys: Output) -> None:
    assert await run("verify", "--incremental") == 6
    assert await run("verify", "--incremental", "--fix") == 0
    assert await run("verify", "--incremental") == 0


async def test_anchor_finds_a_tail_that_was_cut_off(
    falsified: World, capsys: Output, tmp_path: Path
) -> None:
    world, kept = falsified, tmp_path / "heads.anchor"
    assert await run("verify", "--anchor", str(kept)) == 1  # discrepancies remain: no anchor
    assert not kept.exists()
    await run("verify", "--fix")
    charged = await world.ledger().charge(await world.open_account(100, user="7"), 30)
    assert await run("verify", "--anchor", str(kept)) == 0
    assert kept.stat().st_mode & 0o777 == 0o600
    await world.ledger().charge(charged.account, 1)
    assert await run("verify", "--anchor", str(kept)) == 0
    async with tampering(
        world
    ) as connection:  # the charge of 30 and the one after it, and every trace of both
        for sql in (
            "DELETE FROM change WHERE account_id = $1 AND seq > 1",
            "DELETE FROM operation WHERE account_id = $1 AND seq > 1",
            "UPDATE account SET posted = 100, total_spent = 0, seq = 1, head = c.hash FROM change c WHERE c.account_id = id AND id = $1",
        ):
            await connection.execute(sql, charged.account)
        await connection.execute(
            "UPDATE account SET posted = posted - 31 WHERE id = (SELECT revenue_id FROM book)"
        )
    capsys.readouterr()
    assert await run("verify", "--anchor", str(kept)) == 6
    printed = capsys.readouterr().out
    assert "MISMATCH anchor: change 2, its newest when the anchor was taken, is gone" in printed


async def test_damaged_anchor_is_refused(falsified: World, capsys: Output, tmp_path: Path) -> None:
    kept = tmp_path / "heads.anchor"
    await run("verify", "--fix")
    await run("verify", "--anchor", str(kept))
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join([lines[0], *lines[2:]]))
    assert await run("verify", "--anchor", str(kept)) == 1
    assert "its last line is not the digest of the others" in capsys.readouterr().err
