"""How commands end: their exit codes, one sentence, and what is on which stream."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from steelyard.cli.main import COMMANDS
from steelyard.runtime.database import connect
from steelyard.runtime.settings import Settings, environment_name
from tests.e2e.cli_kit import COMMAND, SHIPPED, command, environment, steelyard
from tests.world import FreshDatabase, World


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["token", "--data-dir", "/nowhere"], 3, "there is nothing at /nowhere"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["up", "--port", "70000"], 2, "Input should be less than or equal to 65535"),
        (["import", "/nowhere.csv"], 1, "there is no file /nowhere.csv; nothing was imported"),
        (["serve"], 1, "`serve` needs STEELYARD_DATABASE_URL"),
        (
            ["migrate", "--url", "postgresql://nobody@127.0.0.1:1/none"],
            1,
            "the database at --url cannot be used",
        ),
        (["tenant", "list", "--data-dir", "/nowhere"], 3, "there is nothing at /nowhere"),
    ],
)
def test_a_failed_command_says_one_sentence_and_its_code(
    arguments: list[str], code: int, sentence: str
) -> None:
    said = command(*arguments)
    assert said.code == code
    assert sentence in said.err
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert "Traceback" not in said.err


def test_with_json_a_failure_is_a_problem_object_on_stderr() -> None:
    failed = steelyard("token", "--data-dir", "/nowhere", "--json")
    assert (failed.code, failed.out) == (3, "")
    assert failed.problem["code"] == "not_found"
    assert failed.problem["retryable"] is False


def test_a_setting_that_cannot_be_read_is_named() -> None:
    failed = command("config", STEELYARD_POOL_SIZE="many")
    assert failed.code == 2
    assert "STEELYARD_POOL_SIZE: input should be a valid integer" in failed.err


def test_serve_refuses_tokens_that_could_be_meant_for_others() -> None:
    refused = command("serve", STEELYARD_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (refused.code, "STEELYARD_JWT_ISSUER" in refused.err) == (1, True)


def test_serve_refuses_a_login_that_sees_every_tenant(
    fresh: FreshDatabase,
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 40)
    secret.chmod(0o600)
    refused = steelyard(
        "serve",
        "--json",
        STEELYARD_DATABASE_URL=fresh.admin_url,
        STEELYARD_JWT_ISSUER="us",
        STEELYARD_JWT_AUDIENCE="us",
        STEELYARD_JWT_SECRET_FILE=str(secret),
    )
    assert (refused.code, refused.problem["code"]) == (1, "unsafe_database")


def test_config_shows_every_setting_and_no_secret() -> None:
    shown = command("config", STEELYARD_DATABASE_URL="postgresql://u:hush-hush@127.0.0.1/x").out
    assert "hush-hush" not in shown
    missing = [name for name in Settings.model_fields if environment_name(name) not in shown]
    assert missing == []


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        told = command(name, "--help")
        assert (told.code, told.err) == (0, ""), name


def test_openapi_prints_the_document() -> None:
    printed = command("openapi")
    assert printed.code == 0
    assert printed.json["openapi"].startswith("3.1")


def test_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "secrets").mkdir(parents=True)
    secret = folder / "secrets" / "token-secret"
    secret.write_text("x" * 40)
    secret.chmod(0o644)
    looked = command("doctor", "--json", "--data-dir", folder)
    wrong = {one["name"]: one for one in looked.json["findings"] if not one["ok"]}
    assert looked.code == 1
    assert wrong["token secret"]["what"] == "its mode is 0644, so others can read or change it"
    assert f"chmod 600 {secret}" in wrong["token secret"]["remedy"]


def test_migrate_says_what_is_pending_and_prepares_once(
    admin_url: str, fresh: FreshDatabase
) -> None:
    assert command("migrate", "--url", fresh.admin_url, "--dry-run", "--json").json == {
        "pending": []
    }
    made = command(
        "migrate",
        "--url",
        fresh.admin_url,
        "--login",
        "steelyard_cli_login",
        "--password",
        "tests only",
        "--json",
    )
    assert made.code == 0, made.err
    assert "tests only" not in made.out + made.err
    assert made.json["login"] == "steelyard_cli_login"


async def test_an_import_killed_on_the_way_goes_on_where_it_was(
    world: World, tmp_path: Path
) -> None:
    file = tmp_path / "long.csv"
    lines = (
        f"2014-10-{day:02},{card},shop {card},{day}.{card % 100:02}\n"
        for day in range(1, 29)
        for card in range(1, 301)
    )
    file.write_text("date,card,merchant,amount_gbp\n" + "".join(lines))
    arguments = ("import", str(file), "--topup", "--json")
    env = environment(STEELYARD_DATABASE_URL=world.fresh.app_url)
    process = subprocess.Popen(  # noqa: ASYNC220 - it is the process to kill
        [*COMMAND, *arguments], env=env, stdout=subprocess.DEVNULL
    )
    connection = await connect(world.fresh.admin_url)
    until_s = time.monotonic() + 30
    while await connection.fetchval("SELECT count(*) FROM steelyard.operation") < 1000:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until_s
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = await connection.fetchval(
        "SELECT count(*) FROM steelyard.operation WHERE key NOT LIKE '%/topup/%'"
    )
    assert there < 8400
    done = steelyard(*arguments, STEELYARD_DATABASE_URL=world.fresh.app_url)
    assert done.code == 0, done.err
    assert done.json["charges"] + done.json["already_there"] == 8400
    assert done.json["already_there"] >= there
    assert await connection.fetchval("SELECT count(*) FROM steelyard.operation") == 8400 + 300
    assert (
        await connection.fetchval("SELECT sum(posted) FROM steelyard.account WHERE kind = 'held'")
        == 0
    )
    await connection.close()


def test_refused_lines_are_listed_and_the_exit_code_tells(world: World, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    file.write_text(
        "date,card,merchant,amount_gbp\n2014-10-01,1,tea,1.00\n2014-10-01,1,tea,1.001\n"
    )
    url = world.fresh.app_url
    done = steelyard("import", file, "--topup", "--json", STEELYARD_DATABASE_URL=url)
    assert (done.code, done.json["charges"], done.json["refused_count"]) == (1, 1, 1)
    assert done.json["refused"] == [
        {"line": 3, "field": "amount_gbp", "reason": "'1.001' has more than 2 decimal digits"}
    ]
    strict = steelyard("import", file, "--strict", "--json", STEELYARD_DATABASE_URL=url)
    assert (strict.code, strict.problem["code"]) == (1, "import_refused")
    elsewhere = steelyard(
        "import", SHIPPED, "--tenant", "nope", "--json", STEELYARD_DATABASE_URL=url
    )
    assert (elsewhere.code, elsewhere.problem["code"]) == (3, "not_found")
