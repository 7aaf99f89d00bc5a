"""Check what the style guide asks for and no linter knows; run by `./dev check`.

Each rule is a plain function from a parsed module to findings. A finding is printed as
`path:line: what is wrong; how to mend it`. The exit code is 1 when there is one.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath

CHECKED_FOLDERS = ("src/steelyard", "tools")
FUNCTION_LINES_MAX = 50
MODULE_LINES_MAX = 400
POSITIONAL_INPUTS_MAX = 4

# Names that say nothing about what a module does.
EMPTY_NAMES = frozenset(
    "common helper helpers manager managers misc service services util utils".split()
)

# Slices that must run under virtual time: time, ids and chance come in as arguments or ports.
DETERMINISTIC = frozenset("core ledger balances mirror connections jobs schedules sync".split())
NONDETERMINISTIC = {
    "datetime.datetime.now": "take `now` or a Clock",
    "datetime.datetime.utcnow": "take `now` or a Clock",
    "datetime.datetime.today": "take `now` or a Clock",
    "datetime.date.today": "take `now` or a Clock",
    "time": "take `now` or a Clock; wait with asyncio",
    "uuid.uuid1": "take the id, or the ids port",
    "uuid.uuid4": "take the id, or the ids port",
    "uuid.uuid6": "take the id, or the ids port",
    "uuid.uuid7": "take the id, or the ids port",
    "random": "take the choice, or a port",
    "secrets": "take the secret, or a port",
    "os.urandom": "take the bytes, or a port",
    "threading": "use asyncio tasks; threads belong to runtime",
    "concurrent.futures": "use asyncio tasks; threads belong to runtime",
    "asyncio.to_thread": "use asyncio tasks; threads belong to runtime",
}

# Where money is computed: an amount is an integer of minor units, never a float.
MONEY_FOLDERS = frozenset({"ledger"})
MONEY_MODULES = frozenset({"src/steelyard/core/money.py"})

# All SQL of these slices is in their store (`store.py`, or a folder `store/`).
SQL_IN_STORE = frozenset(
    "access balances connections insights jobs ledger live mirror notify reconcile schedules sync web".split()
)
SQL_TEXT = re.compile(
    r"\s*(?:(?:SELECT|INSERT|UPDATE|DELETE|WITH|MERGE|TRUNCATE|CREATE|ALTER|DROP|LOCK|CALL|VALUES)"
    r"\s+(?:$|[^/\s])|select\s.+\sfrom\s|insert\s+into\s|update\s+[\w.]+\s+set\s|delete\s+from\s"
    r"|with\s+(?:recursive\s+)?\w+\s+as\s)",
    re.DOTALL,
)

# The process edges: the only files that may catch everything, because nobody above them could.
# Each such handler logs and counts what it caught and says in a comment why it is there.
PROCESS_EDGES: frozenset[str] = frozenset(
    {
        "src/steelyard/cli/main.py",  # a command's end: a sentence and an exit code
        "src/steelyard/jobs/run_jobs.py",  # calls handlers it does not know; a job must end
        "src/steelyard/ledger/commit.py",  # a background task: its callers must be answered
        "src/steelyard/live/gateway.py",  # work for one session must not end the others
        "src/steelyard/runtime/bus.py",  # calls listeners it does not know
        "src/steelyard/runtime/edge.py",  # every request: what a handler raises is told to the client
        "src/steelyard/runtime/redis/hearing.py",  # calls hooks it does not know
        "src/steelyard/runtime/repeat.py",  # background tasks must outlive what one turn raises
        "src/steelyard/schedules/run_schedules.py",  # one schedule must not hold up those of others
        "src/steelyard/sync/raise_logins.py",  # a background task: logins that wait must be answered
        "src/steelyard/sync/run_targets.py",  # calls providers of third parties; a lease must end
        "src/steelyard/sync/write_queue.py",  # a background task: results of others still have to be written
    }
)


@dataclass(frozen=True, order=True)
class Finding:
    """One place that breaks one rule."""

    path: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Module:
    """One parsed source file; `path` is relative to the checkout, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def slice(self) -> str:
        """The folder (or top module) below `src/steelyard`, or nothing for other code."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return parts[2] if parts[:2] == ("src", "steelyard") and len(parts) > 2 else ""

    @cached_property
    def imported(self) -> dict[str, str]:
        """Each imported name with the full name it stands for."""
        names = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    bound = name.asname or name.name.partition(".")[0]
                    names[bound] = name.name if name.asname else bound
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for name in node.names:
                    names[name.asname or name.name] = f"{node.module}.{name.name}"
        return names

    def full_name(self, node: ast.AST) -> str:
        """The dotted name that an expression refers to through this module's imports, or nothing."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, "")
        if isinstance(node, ast.Attribute) and (parent := self.full_name(node.value)):
            return f"{parent}.{node.attr}"
        return ""

    def finding(self, line: int, what: str, remedy: str) -> Finding:
        return Finding(self.path, line, what, remedy)


Rule = Callable[[Module], Iterator[Finding]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_of(module: Module) -> Iterator[Function]:
    """Every function of a module, nested ones and methods included."""
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            yield node


def check_module_length(module: Module) -> Iterator[Finding]:
    """A module has at most 400 lines."""
    if len(module.lines) > MODULE_LINES_MAX:
        yield module.finding(
            MODULE_LINES_MAX + 1,
            f"module has {len(module.lines)} lines, more than {MODULE_LINES_MAX}",
            "split it by what its parts do",
        )


def check_function_length(module: Module) -> Iterator[Finding]:
    """A function's body has at most 50 lines without its docstring."""
    for function in functions_of(module):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        if length > FUNCTION_LINES_MAX:
            yield module.finding(
                function.lineno,
                f"{function.name} has {length} lines, more than {FUNCTION_LINES_MAX}",
                "take a step with a name of its own out of it",
            )


def check_positional_inputs(module: Module) -> Iterator[Finding]:
    """A function takes at most four positional inputs; `self` and `cls` are not counted."""
    for function in functions_of(module):
        inputs = [*function.args.posonlyargs, *function.args.args]
        if inputs and inputs[0].arg in ("self", "cls"):
            inputs = inputs[1:]
        if len(inputs) > POSITIONAL_INPUTS_MAX:
            yield module.finding(
                function.lineno,
                f"{function.name} takes {len(inputs)} positional inputs, more than "
                f"{POSITIONAL_INPUTS_MAX}",
                "make a request type, or make the rest keyword-only with `*`",
            )


def check_names(module: Module) -> Iterator[Finding]:
    """A module is named for what it does."""
    for part in PurePosixPath(module.path).with_suffix("").parts:
        if part in EMPTY_NAMES:
            yield module.finding(1, f"the name {part!r} says nothing", "name it for what it does")


def check_determinism(module: Module) -> Iterator[Finding]:
    """Slices that run under virtual time read no clock, draw nothing and start no thread."""
    if module.slice not in DETERMINISTIC:
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr == "run_in_executor":
            yield module.finding(node.lineno, "run_in_executor starts a thread", "use asyncio")
        for name in _references_of(module, node):
            for banned, remedy in NONDETERMINISTIC.items():
                if name == banned or name.startswith(f"{banned}."):
                    yield module.finding(
                        getattr(node, "lineno", 1), f"{name} is not deterministic", remedy
                    )


def _references_of(module: Module, node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names if name.name not in ("datetime", "uuid", "os")]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{name.name}" for name in node.names]
    if isinstance(node, ast.Attribute):
        return [module.full_name(node)]
    return []


def check_money_is_integer(module: Module) -> Iterator[Finding]:
    """Where money is computed nothing is a float: no annotation, no call, no division by 10, 100, …"""
    if module.slice not in MONEY_FOLDERS and module.path not in MONEY_MODULES:
        return
    remedy = "keep integers of minor units (Money); a duration is a timedelta"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and _is_float(node.func):
            yield module.finding(node.lineno, "float() where money is computed", remedy)
        for annotation in _annotations_of(node):
            if any(_is_float(part) for part in ast.walk(annotation)):
                yield module.finding(annotation.lineno, "float where money is computed", remedy)
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            divisor = node.right if isinstance(node, ast.BinOp) else node.value
            if _is_power_of_ten(divisor):
                yield module.finding(node.lineno, "division makes a float of money", remedy)


def _annotations_of(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.arg | ast.AnnAssign):
        return [node.annotation] if node.annotation else []
    if isinstance(node, Function):
        return [node.returns] if node.returns else []
    return []


def _is_float(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id == "float") or (
        isinstance(node, ast.Constant) and node.value == "float"
    )


def _is_power_of_ten(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return node.value in (10, 100, 1000, 10_000)
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 10
    )


def check_broad_except(module: Module) -> Iterator[Finding]:
    """Everything is caught only at a process edge, with a comment; re-raising it is free."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and _catches_everything(node.type):
            last = node.body[-1]
            if isinstance(last, ast.Raise) and last.exc is None:
                continue
            what = "catches everything"
            if module.path not in PROCESS_EDGES:
                yield module.finding(node.lineno, what, "catch the narrowest type")
            elif not any("#" in line for line in module.lines[node.lineno - 2 : node.lineno]):
                yield module.finding(node.lineno, what, "say why in a comment on or above the line")
        elif (
            isinstance(node, ast.Call)
            and module.full_name(node.func) == "contextlib.suppress"
            and any(_catches_everything(argument) for argument in node.args)
        ):
            yield module.finding(node.lineno, "suppresses everything", "name the narrowest type")


def _catches_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_catches_everything(one) for one in caught.elts)
    return caught is None or (
        isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException")
    )


def check_sql_in_store(module: Module) -> Iterator[Finding]:
    """All SQL of a slice is in its store, where a reader finds every query."""
    below_slice = PurePosixPath(module.path).with_suffix("").parts[3:]
    if module.slice not in SQL_IN_STORE or below_slice[:1] == ("store",):
        return
    for node in ast.walk(module.tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and SQL_TEXT.match(node.value)
            and not _is_docstring(module, node)
        ):
            yield module.finding(node.lineno, "SQL outside the store", "move it to store.py")


def _is_docstring(module: Module, constant: ast.Constant) -> bool:
    return any(
        isinstance(node, ast.Expr) and node.value is constant for node in ast.walk(module.tree)
    )


def check_core_imports(module: Module) -> Iterator[Finding]:
    """`core` stands alone: the standard library and itself."""
    if module.slice != "core":
        return
    allowed = {*sys.stdlib_module_names, "steelyard"}
    for line, name in _imports_of(module):
        if name.partition(".")[0] not in allowed:
            yield module.finding(
                line, f"core imports {name}", "keep core to the standard library; put it in runtime"
            )


def check_api_imports(module: Module) -> Iterator[Finding]:
    """A slice's routes are imported by the application alone."""
    if module.slice in ("", "app"):
        return
    for line, name in _imports_of(module):
        parts = name.split(".")
        if parts[0] == "steelyard" and parts[2:3] == ["api"] and parts[1] != module.slice:
            yield module.finding(
                line, f"imports the routes {name}", "call the slice's functions; routes are app's"
            )


def _imports_of(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


RULES: tuple[Rule, ...] = (
    check_module_length,
    check_function_length,
    check_positional_inputs,
    check_names,
    check_determinism,
    check_money_is_integer,
    check_broad_except,
    check_sql_in_store,
    check_core_imports,
    check_api_imports,
)


def check_module(path: str, text: str) -> list[Finding]:
    """Return what one source text breaks, by line; `path` decides which rules are about it."""
    module = Module(path, text)
    return sorted(set(chain.from_iterable(rule(module) for rule in RULES)))


def check_packages(paths: Iterable[str]) -> list[Finding]:
    """Return the folders without `__init__.py`: the import contracts do not see into them."""
    sources = {PurePosixPath(path) for path in paths}
    folders = {path.parent for path in sources if path.parts[:2] == ("src", "steelyard")}
    return [
        Finding(str(folder), 1, "folder has no __init__.py", "add one: imports are checked by it")
        for folder in sorted(folders)
        if folder / "__init__.py" not in sources
        and folder.name != "versions"  # alembic loads revisions as files, nothing imports them
    ]


def main() -> int:
    """Check the checkout that this file is in; return the exit code."""
    root = Path(__file__).resolve().parent.parent
    sources = sorted(chain.from_iterable((root / one).rglob("*.py") for one in CHECKED_FOLDERS))
    paths = [source.relative_to(root).as_posix() for source in sources]
    findings = check_packages(paths)
    for path, source in zip(paths, sources, strict=True):
        findings += check_module(path, source.read_text(encoding="utf-8"))
    findings += [
        Finding(path, 1, "is named as a process edge but is not there", "take it off the list")
        for path in sorted(PROCESS_EDGES.difference(paths))
    ]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
