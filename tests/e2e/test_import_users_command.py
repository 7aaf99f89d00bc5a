"""`steelyard import users` as a person or script runs it."""

import asyncio
import gzip
import json
import re
from pathlib import Path

import pytest

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.sync.enrolment import Refusal
from tests.e2e.cli_kit import ROOT, Run, command
from tests.world import World

PAGE = ROOT / "docs/how-to/import-users.md"


async def run(world: World, *arguments: object) -> Run:
    """Run a command on the world's database."""
    url = world.fresh.app_url
    return await asyncio.to_thread(command, *arguments, STEELYARD_DATABASE_URL=url)


def shown_in_docs(language: str) -> str:
    """The page's first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_files_of_the_page_are_imported_and_say_the_same(
    world: World, tmp_path: Path
) -> None:
    csv, jsonl = tmp_path / "users.csv", tmp_path / "users.jsonl"
    csv.write_text(shown_in_docs("text"))
    jsonl.write_text(shown_in_docs("json"))
    first = await run(world, "import", "users", csv, "--json")
    assert first.code == 0, first.err
    assert {
        name: first.json[name] for name in ("users_created", "accounts_opened", "targets_added")
    } == {
        "users_created": 2,
        "accounts_opened": 2,
        "targets_added": 1,
    }
    second = await run(world, "import", "users", jsonl)
    assert second.code == 0, second.err
    assert second.out == (
        "1 lines, 0 refused. Users: 0 created, 0 updated, 1 unchanged. "
        "Accounts: 0 opened, 0 updated, 2 unchanged. Synced: 0 more, 0 no longer\n"
    )


async def test_refused_lines_are_listed_and_written_and_the_exit_code_says_so(
    world: World, tmp_path: Path
) -> None:
    file, rejects = tmp_path / "users.csv", tmp_path / "rejects.jsonl"
    lines = [f'u{i},"=cmd|{i}",ZMK' for i in range(30)]
    file.write_text("\n".join(["username,accountNumber,currency", *lines, "ann,1,ZMW"]))
    told = await run(world, "import", "users", file, "--rejects", rejects)
    assert told.code == 1
    assert "31 lines, 30 refused. Users: 1 created" in told.out
    assert "… and 10 more" in told.out
    written = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert len(written) == 30
    assert written[0] == {
        "line": 2,
        "user": None,
        "field": "currency",
        "code": "unknown_currency",
        "reason": "'ZMK' is not an ISO 4217 currency code",
    }
    whole = await run(world, "import", "users", file, "--on-error", "refuse", "--json")
    assert (whole.code, whole.problem["code"], whole.problem["refused_count"]) == (
        1,
        "import_refused",
        30,
    )


async def test_what_is_no_file_of_users_is_refused_with_a_hint(
    world: World, tmp_path: Path
) -> None:
    packed = tmp_path / "users.csv.gz"
    packed.write_bytes(gzip.compress(b"username\nann\n"))
    named = tmp_path / "users.csv"
    named.write_bytes(packed.read_bytes())
    nothing = tmp_path / "empty.jsonl"
    nothing.touch()
    for file, said in (
        (packed, "unpack it first"),
        (named, "gunzip"),
        (nothing, "it is empty"),
        (tmp_path / "missing.csv", "there is no file"),
    ):
        told = await run(world, "import", "users", file)
        assert told.code != 0
        assert said in told.err
    other = await run(world, "import", "users", nothing, "--tenant", "nobody")
    assert other.code == 3
    async with world.database.unit_of_work(DEFAULT_TENANT) as uow:
        assert await uow.fetchval("SELECT count(*) FROM steelyard.app_user") == 0


@pytest.mark.parametrize("arguments", [["purchases"], []])
async def test_purchases_are_imported_with_and_without_their_name(
    world: World, tmp_path: Path, arguments: list[str]
) -> None:
    file = tmp_path / "some.csv"
    file.write_text("date,card,merchant,amount_gbp\n2014-10-01,1,wix.com,74.25\n")
    told = await run(world, "import", *arguments, file, "--topup", "--json")
    assert (told.code, told.json["charges"]) == (0, 1), told.err
    assert told.err == ""


def test_every_reason_to_refuse_a_line_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)) >= set(Refusal)
