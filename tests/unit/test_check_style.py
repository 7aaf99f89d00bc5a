"""Each rule of tools/check_style.py finds a planted violation and leaves the allowed form alone."""

from pathlib import Path

import pytest

from tools import check_style
from tools.check_style import check_module, check_packages

LEDGER = "src/steelyard/ledger/charge.py"
RUNTIME = "src/steelyard/runtime/relay.py"
EDGE = "src/steelyard/runtime/edge.py"


def said(text: str, path: str = LEDGER) -> list[tuple[int, str]]:
    return [(finding.line, finding.what) for finding in check_module(path, text)]


def test_finding_says_where_what_and_how_to_mend() -> None:
    (finding,) = check_module(LEDGER, "import random\n")
    assert str(finding) == (
        "src/steelyard/ledger/charge.py:1: random is not deterministic; take the choice, or a port"
    )


def test_module_may_have_400_lines_and_not_401() -> None:
    assert said("x = 1\n" * 400) == []
    assert said("x = 1\n" * 401) == [(401, "module has 401 lines, more than 400")]


def test_function_may_have_50_lines_and_not_51() -> None:
    body = "    x = 1\n"
    assert said("def f() -> None:\n" + body * 50) == []
    assert said("def f() -> None:\n" + body * 51) == [(1, "f has 51 lines, more than 50")]


def test_docstring_is_not_counted_as_lines_of_a_function() -> None:
    docstring = '    """One.\n' + "    more\n" * 60 + '    """\n'
    assert said("def f() -> None:\n" + docstring + "    x = 1\n" * 50) == []


def test_method_and_nested_function_are_measured_too() -> None:
    text = "class C:\n    async def f(self) -> None:\n" + "        x = 1\n" * 51
    assert said(text) == [(2, "f has 51 lines, more than 50")]


def test_function_may_take_four_positional_inputs_and_not_five() -> None:
    assert said("def f(a, b, c, d, *, e, g): ...\n") == []
    assert said("class C:\n    def f(self, a, b, c, d): ...\n") == []
    assert said("def f(a, b, /, c, d, e): ...\n") == [
        (1, "f takes 5 positional inputs, more than 4")
    ]


@pytest.mark.parametrize("name", ["utils", "helpers", "manager", "service", "common"])
def test_module_or_folder_named_for_nothing_is_found(name: str) -> None:
    assert said("", f"src/steelyard/ledger/{name}.py") == [(1, f"the name {name!r} says nothing")]
    assert said("", f"src/steelyard/{name}/charge.py") == [(1, f"the name {name!r} says nothing")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\nf(dt.datetime.utcnow)", "datetime.datetime.utcnow"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("import asyncio\nasyncio.to_thread(f)", "asyncio.to_thread"),
        ("\nfrom uuid import uuid4", "uuid.uuid4"),
        ("\nfrom time import time", "time.time"),
        ("\nimport time", "time"),
        ("\nimport random as chance", "random"),
        ("\nfrom secrets import token_hex", "secrets.token_hex"),
        ("\nimport threading", "threading"),
        ("\nfrom concurrent.futures import Future", "concurrent.futures.Future"),
    ],
)
def test_clock_chance_and_threads_are_banned_where_time_is_virtual(text: str, name: str) -> None:
    for folder in ("core", "ledger", "balances", "mirror", "connections", "sync"):
        assert said(text, f"src/steelyard/{folder}/x.py") == [(2, f"{name} is not deterministic")]
    assert said(text, RUNTIME) == []


def test_executor_is_banned_where_time_is_virtual() -> None:
    assert said("loop.run_in_executor(None, f)\n") == [(1, "run_in_executor starts a thread")]
    assert said("loop.run_in_executor(None, f)\n", RUNTIME) == []


def test_other_uses_of_the_same_modules_are_free() -> None:
    text = "from datetime import UTC, datetime, time\nfrom uuid import UUID\nimport uuid\nUUID(int=1)\n"
    assert said(text + "datetime(2026, 1, 1, tzinfo=UTC)\nuuid.NAMESPACE_URL\n") == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = float(minor)\n", "float() where money is computed"),
        ("def f(amount: float) -> None: ...\n", "float where money is computed"),
        ("def f() -> list[float]: ...\n", "float where money is computed"),
        ("amount: int | float = 1\n", "float where money is computed"),
        ("x = minor / 100\n", "division makes a float of money"),
        ("x = minor / 10**digits\n", "division makes a float of money"),
        ("minor /= 100\n", "division makes a float of money"),
    ],
)
def test_float_is_banned_where_money_is_computed(text: str, what: str) -> None:
    assert said(text, LEDGER) == [(1, what)]
    assert said(text, "src/steelyard/core/money.py") == [(1, what)]
    assert said(text, RUNTIME) == []


def test_whole_division_and_a_refusal_of_floats_are_free() -> None:
    assert said("x = minor // 100\nif isinstance(x, float): raise TypeError\n") == []


@pytest.mark.parametrize(
    "handler", ["except:", "except Exception:", "except (OSError, BaseException) as e:"]
)
def test_broad_except_is_found_outside_process_edges(handler: str) -> None:
    text = f"try:\n    f()\n{handler}\n    log()\n"
    assert said(text, RUNTIME) == [(3, "catches everything")]


def test_broad_except_that_raises_again_is_free() -> None:
    assert said("try:\n    f()\nexcept BaseException:\n    undo()\n    raise\n", RUNTIME) == []


def test_broad_except_at_a_process_edge_needs_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_style, "PROCESS_EDGES", frozenset({EDGE}))
    bare = "try:\n    f()\nexcept Exception:\n    log()\n"
    assert said(bare, EDGE) == [(3, "catches everything")]
    assert said(bare.replace("Exception:", "Exception:  # the loop goes on"), EDGE) == []


def test_suppressing_everything_is_found() -> None:
    text = "from contextlib import suppress\nwith suppress(Exception):\n    f()\n"
    assert said(text, RUNTIME) == [(2, "suppresses everything")]
    assert said(text.replace("Exception", "OSError"), RUNTIME) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "\n    SELECT id\n    FROM account",
        "INSERT INTO account VALUES ($1)",
        "UPDATE account SET held = 0",
        "DELETE FROM account",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "select id from account",
        "update account set held = 0",
        "with a as (select 1) select 2",
    ],
)
def test_sql_is_found_outside_the_store(sql: str) -> None:
    text = f"query = {sql!r}\n"
    for folder in ("ledger", "balances", "access", "reconcile"):
        assert said(text, f"src/steelyard/{folder}/charge.py") == [(1, "SQL outside the store")]
        assert said(text, f"src/steelyard/{folder}/store.py") == []
        assert said(text, f"src/steelyard/{folder}/store/lock.py") == []
    assert said(text, RUNTIME) == []


def test_sql_in_an_f_string_is_found() -> None:
    assert said('f"SELECT {columns} FROM account"\n') == [(1, "SQL outside the store")]


@pytest.mark.parametrize(
    "prose", ["Select an account from the list.", "UPDATE", "DELETE /api/keys", "with care"]
)
def test_prose_is_not_taken_for_sql(prose: str) -> None:
    assert said(f"text = {prose!r}\n") == []


def test_docstring_about_sql_is_free() -> None:
    assert said('"""SELECT 1 is what it sends."""\n') == []


def test_core_imports_the_standard_library_and_itself_alone() -> None:
    core = "src/steelyard/core/money.py"
    assert said("from decimal import Decimal\nfrom steelyard.core.errors import E\n", core) == []
    assert said("import msgspec\n", core) == [(1, "core imports msgspec")]
    assert said("from pydantic.types import T\n", core) == [(1, "core imports pydantic.types.T")]


def test_routes_are_imported_by_the_application_alone() -> None:
    text = "from steelyard.ledger.api import routes\n"
    assert said(text, "src/steelyard/reconcile/verify.py") == [
        (1, "imports the routes steelyard.ledger.api.routes")
    ]
    assert said("from steelyard.ledger import api\n", "src/steelyard/cli/main.py") == [
        (1, "imports the routes steelyard.ledger.api")
    ]
    assert said(text, "src/steelyard/app.py") == []
    assert said(text, "src/steelyard/ledger/api_holds.py") == []


def test_folder_that_the_import_contracts_cannot_see_is_found() -> None:
    package = ["src/steelyard/__init__.py", "src/steelyard/ledger/charge.py", "tools/x.py"]
    assert [finding.path for finding in check_packages(package)] == ["src/steelyard/ledger"]
    assert check_packages([*package, "src/steelyard/ledger/__init__.py"]) == []
    revision = "src/steelyard/runtime/migrations/versions/0001.py"
    assert check_packages(["src/steelyard/__init__.py", revision]) == []


def test_checkout_is_found_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check_style, "MODULE_LINES_MAX", 0)
    assert check_style.main() == 1
    assert "src/steelyard/__init__.py:1: module has" in capsys.readouterr().out
