"""The documentation names everything there is, and nothing that is not: settings, codes, commands, figures, links."""

import ast
import importlib
import json
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

import steelyard
from steelyard.access.roles import ALLOWED
from steelyard.app import HOT_ROUTES, Services, _readings, create_app
from steelyard.cli.config import OTHER_NAMES
from steelyard.cli.main import ALIASES, COMMANDS
from steelyard.core.errors import SteelyardError
from steelyard.jobs.run_jobs import JobFigures
from steelyard.live.client_events import CLIENT_EVENTS
from steelyard.live.events import COMPLAINTS, SERVER_EVENTS
from steelyard.live.figures import LiveFigures
from steelyard.live.transport import Ending
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.metrics import Figures
from steelyard.runtime.problems import MEANINGS
from steelyard.runtime.settings import Settings, environment_name
from steelyard.sync.figures import SyncFigures

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def text_of(name: str) -> str:
    """A page of the reference."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def first_cells(text: str) -> set[str]:
    """Everything in backticks in the first cell of a table's rows."""
    rows = (line.split("|")[1] for line in text.splitlines() if line.startswith("|"))
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [body for name, body in found if name == language]


# --- settings, errors, figures, events ---------------------------------------------------------


def test_every_setting_is_documented_with_its_default_and_none_is_made_up() -> None:
    text = text_of("settings.md")
    fields = {environment_name(name): one for name, one in Settings.model_fields.items()}
    elsewhere = {*OTHER_NAMES, "STEELYARD_ADMIN_DATABASE_URL", "STEELYARD_APP_PASSWORD"}
    assert first_cells(text) == fields.keys() | elsewhere
    for name, field in fields.items():
        default = "none" if field.default is None else f"`{field.default}`"
        assert f"| `{name}` | {default} |" in text


def all_error_codes() -> set[str]:
    """The codes of every error type of the product."""
    for module in pkgutil.walk_packages(steelyard.__path__, "steelyard."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)

    def kinds(above: type[SteelyardError]) -> Iterator[type[SteelyardError]]:
        yield above
        for kind in above.__subclasses__():
            yield from kinds(kind)

    ours = (one for one in kinds(SteelyardError) if one.__module__.startswith("steelyard."))
    return {kind.code for kind in ours}


def test_every_error_code_is_documented_and_none_is_made_up() -> None:
    # Not types of their own: told by the command line about what is not ours.
    told_by_commands = {"usage", "invalid_setting", "system_error"}
    benchmark_only = {"peer_refused", "benchmark_unsound"}  # docs/reference/benchmarks.md
    told_live = {ending.word for ending in Ending} | set(COMPLAINTS)
    told_with_runs = {"job_cancelled", "network", "timeout", "unclassified", "worker_lost"}
    told = told_by_commands | told_live | told_with_runs
    expected = (all_error_codes() | MEANINGS.keys() | told) - benchmark_only
    assert first_cells(text_of("errors.md")) == expected


def test_every_error_of_the_api_is_documented_with_its_status() -> None:
    text = text_of("errors.md")
    for code, meaning in MEANINGS.items():
        assert f"| `{code}` | {meaning.status} |" in text


def test_every_figure_is_documented_and_none_is_made_up() -> None:
    figures = Figures()
    figures.add(_readings(cast(Services, _AnyServices())))
    ours = {
        line.split(" ")[2]
        for line in figures.render()[0].decode().splitlines()
        if line.startswith("# TYPE steelyard_")
    }
    assert first_cells(text_of("metrics.md")) - {"GET /metrics"} == ours


class _AnyServices:
    """Services of which every figure is nothing."""

    live = SimpleNamespace(gateway=SimpleNamespace(figures=LiveFigures()))
    jobs = SimpleNamespace(figures=JobFigures())
    sync = SimpleNamespace(figures=SyncFigures(), seen=())

    def __getattr__(self, name: str) -> Any:
        return _Nothing()


class _Nothing(int):
    """Nothing, and so is everything of it."""

    def __getattr__(self, name: str) -> "_Nothing":
        return _Nothing()


def test_every_field_of_an_event_is_documented() -> None:
    assert first_cells(text_of("events.md")) == set(BalanceEvent.__struct_fields__)


def section_of(name: str, heading: str) -> str:
    """The part of a page below a heading of the second level."""
    return text_of(name).split(f"## {heading}\n")[1].split("\n## ")[0]


def test_every_live_event_is_documented_and_none_is_made_up() -> None:
    assert first_cells(section_of("live.md", "What the server sends")) == set(SERVER_EVENTS)
    said = section_of("live.md", "What a client may send")
    assert first_cells(said) == CLIENT_EVENTS.keys()
    for name, event in CLIENT_EVENTS.items():
        [row] = [line for line in said.splitlines() if line.startswith(f"| `{name}`")]
        _, _, fields, permission, *_ = (cell.strip() for cell in row.split("|"))
        assert set(re.findall(r"`(\w+)\??`", fields)) == event.fields
        assert permission == f"`{event.permission}`"


def test_every_ending_of_a_live_connection_is_documented() -> None:
    text = section_of("live.md", "How a connection ends")
    for ending in Ending:
        assert f"| {ending.close_code} | `{ending.word}` |" in text


# --- the API -----------------------------------------------------------------------------------


def test_every_route_is_documented_and_none_is_made_up() -> None:
    document = create_app(Settings()).openapi()
    there = {
        f"{method.upper()} {path}"
        for path, methods in document["paths"].items()
        for method in methods
    }
    told = set()
    for section in re.split(r"^## ", text_of("http.md"), flags=re.MULTILINE):
        prefix = "POST /api/accounts/{account}" if section.startswith("Money") else ""
        for name in first_cells(section):
            if re.match(r"(GET|POST|PUT|PATCH|DELETE) /", name) or (
                prefix and name.startswith("/")
            ):
                told.add(prefix + name)
    aliases = {one.replace(" /api/", " /") for one in there} & told
    assert there - {one.replace(" /", " /api/") for one in aliases} == told
    assert len(HOT_ROUTES) > 0


def test_the_roles_on_the_page_are_those_of_the_code() -> None:
    section = text_of("http.md").split("### Roles")[1].split("\n## ")[0]
    header, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    roles = [cell.strip() for cell in header.split("|")[2:-1]]
    told = {
        permission: {
            role
            for role, cell in zip(roles, row.split("|")[2:-1], strict=True)
            if cell.strip() in ("yes", "own")
        }
        for row in rows
        for permission in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    document = create_app(Settings()).openapi()
    asked = {
        one["x-permission"] for methods in document["paths"].values() for one in methods.values()
    }
    assert told.keys() >= asked - {"public"}
    assert told == {name: {str(role) for role in ALLOWED[name]} for name in told}


def test_the_checked_in_openapi_document_is_the_one_that_is_served() -> None:
    kept = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(create_app(Settings()).openapi()))


# --- commands ----------------------------------------------------------------------------------


def command_of(name: str) -> Any:
    """The click command behind a word."""
    module = importlib.import_module(COMMANDS[ALIASES.get(name, name)])
    return typer.main.get_command(module.app)


def options_of(command: Any) -> set[str]:
    """Every option of a command and of the commands below it."""
    own = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    for below in getattr(command, "commands", {}).values():
        own |= options_of(below)
    return own - {"--install-completion", "--show-completion"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_every_option(name: str) -> None:
    pages = text_of("cli.md")
    section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", pages, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/reference/cli.md has no section for {name}"
    text = section[1] + (text_of("benchmarks.md") if name == "bench" else "")
    missing = options_of(command_of(name)) - {"--json", "--help"}
    assert not {option for option in missing if not re.search(rf"{option}(?![\w-])", text)}
    assert first_cells(section[1]) <= options_of(command_of(name)) | {"--json"}


def test_every_alias_of_a_command_is_documented() -> None:
    assert all(f"steelyard {alias}" in text_of("cli.md") for alias in ALIASES)


def shell_commands() -> list[tuple[str, str]]:
    """Each line of a shell block that runs the product, with the page it is on."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                inner = re.search(r"(?:\./dev|(?<![\w./-])steelyard) ([^)]*)", line.split(" #")[0])
                if inner is not None:
                    found.append((str(page.relative_to(ROOT)), inner[1].strip()))
    return found


@pytest.mark.parametrize(("page", "line"), shell_commands())
def test_every_command_in_a_page_exists_with_its_options(page: str, line: str) -> None:
    word, *arguments = shlex.split(line)
    if word.startswith("--") or word in ("test", "check", "fix", "…", "&&"):
        return  # a word of ./dev itself, or no command
    command = command_of(word)
    used = {one.partition("=")[0] for one in arguments if one.startswith("--")}
    assert used <= options_of(command) | {"--help"}, page
    below = getattr(command, "commands", {})
    if below:
        assert arguments[0] in below, page


# --- pages -------------------------------------------------------------------------------------


def anchors_of(page: Path) -> set[str]:
    """What a link may name after `#`: headings, as they are on the web."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[`*]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    without_code = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(without_code):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert file.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors_of(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_and_json_can_be_read(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("steelyard"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names)
    for block in blocks(page, "json"):
        for document in [block] if block.startswith("{\n") else block.splitlines():
            json.loads(document)


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|#", target):
                found = (page.parent / target.partition("#")[0]).resolve()
                waiting += sorted(found.glob("*.md")) if found.is_dir() else [found]
    assert reached >= set(PAGES)


def test_what_the_code_says_of_the_docs_is_there() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.sql")]
    for source in sources:
        for named in re.findall(r"docs/[\w/.-]+\.(?:md|json)", source.read_text(encoding="utf-8")):
            assert (ROOT / named).exists(), f"{source.name} names {named}"


def test_every_kept_file_named_in_the_guarantees_is_there() -> None:
    text = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    tests = "\n".join(one.read_text(encoding="utf-8") for one in (ROOT / "tests").rglob("*.py"))
    for path in re.findall(r"`(tests/[^`]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
