"""The tutorial's commands, run as they stand: what they print is what the page shows."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli_kit import ROOT, Up, environment

PAGE = ROOT / "docs" / "tutorial" / "first-charge.md"
SHOWN_URL = "http://127.0.0.1:3000"
MARK = "=== next block ==="
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`up` on a fresh folder, as the tutorial begins; the month of purchases is loaded."""
    started = Up.start(tmp_path_factory.mktemp("tutorial") / "data")
    started.wait_ready()
    started.wait_log("3,923 ")
    yield started
    assert started.end() == 0, started.log.read_text()


def steps() -> list[tuple[str, str]]:
    """Each block of commands with the output that follows it on the page; empty where none does."""
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return [
        (body, following[1] if following[0] in ("text", "json") else "")
        for (language, body), following in zip(found, [*found[1:], ("", "")], strict=True)
        if language == "sh"
    ]


def without_moments(text: str) -> str:
    """Text without what differs from run to run: times, ids, and what moves by itself at the core bank."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    text = re.sub(r'"balance":"[\d.]+"', '"balance":"<amount>"', text)
    text = re.sub(r"has [\d.]+ (\w{3}) at the bank", r"has <amount> \1 at the bank", text)
    text = re.sub(r"the bank at http://[\d.:]+ is", "the bank at <address> is", text)
    text = re.sub(r'"run_id":"\d+"', '"run_id":"<id>"', text)
    return re.sub(r'"request_id":"[^"]+"', '"request_id":"<id>"', text)


def test_every_command_of_the_tutorial_prints_what_the_page_shows(
    running: Up, tmp_path: Path
) -> None:
    commands = f"\necho; echo '{MARK}'\n".join(body for body, _ in steps())
    run = shlex.join([sys.executable, "-P", "-m", "steelyard"])
    script = tmp_path / "tutorial.sh"
    script.write_text(
        f"set -eu\n{commands}".replace("./dev ", f"{run} ").replace(SHOWN_URL, running.url),
        encoding="utf-8",
    )
    done = subprocess.run(
        ["bash", str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        env=environment(STEELYARD_DATA_DIR=str(running.folder)),
    )
    assert done.returncode == 0, done.stderr
    printed = [without_moments(part).strip() for part in done.stdout.split(MARK)]
    assert printed == [without_moments(shown).strip() for _, shown in steps()]


def test_the_program_of_the_python_page_runs_and_running_it_again_moves_nothing(
    running: Up, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "how-to" / "use-from-python.md").read_text(encoding="utf-8")
    program = tmp_path / "program.py"
    program.write_text(next(body for name, body in BLOCK.findall(page) if name == "python"))
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-P", str(program)],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(STEELYARD_DATA_DIR=str(running.folder)),
        )
        assert done.returncode == 0, done.stderr
        paid, shortfall, is_clean = done.stdout.splitlines()
        assert re.fullmatch(r"\d+-2 1650", paid)
        assert (shortfall, is_clean) == ("3350", "True")


def test_a_repeated_request_on_the_page_shows_one_outcome() -> None:
    charges = [shown for body, shown in steps() if "order-1" in body and '"amount": 350' in body]
    assert len(charges) == 2
    assert charges[0] == charges[1]
