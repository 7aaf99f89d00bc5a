"""The lock files: complete, hashed, one a superset of the other, and without any address."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-uv.lock"]


def blocks_of(lock: str) -> list[str]:
    """The requirements of a lock file, each with its hashes on one line."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins_of(lock: str) -> set[tuple[str, str]]:
    requirements = [Requirement(block.partition(" --hash")[0]) for block in blocks_of(lock)]
    return {(canonicalize_name(one.name), str(one.specifier)) for one in requirements}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert (
        re.findall(r"://|--index|--extra-index|--find-links|--trusted-host|/home/|/work", text)
        == []
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_one_exact_version_and_a_hash(lock: str) -> None:
    blocks = blocks_of(lock)
    assert blocks
    for block in blocks:
        assert re.match(
            r"[a-z0-9.-]+==[^ =,<>]+( ;[^\\]*?)?( +--hash=sha256:[0-9a-f]{64})+\s*$", block
        ), block


def test_development_lock_holds_every_pin_of_the_product() -> None:
    assert pins_of("requirements.lock") - pins_of("requirements-dev.lock") == set()


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-dev.lock", PROJECT["dependency-groups"]["dev"]),
    ],
)
def test_every_direct_dependency_has_a_floor_and_a_pin_at_or_above_it(
    lock: str, wanted: list[str]
) -> None:
    pins = dict(pins_of(lock))
    for requirement in map(Requirement, wanted):
        assert [one.operator for one in requirement.specifier] == [">="], requirement
        version = pins[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


NPM_FOLDER = ROOT / "tests" / "browser"


def test_npm_lock_pins_every_client_with_a_hash_and_holds_no_address() -> None:
    package = json.loads((NPM_FOLDER / "package.json").read_text(encoding="utf-8"))
    text = (NPM_FOLDER / "package-lock.json").read_text(encoding="utf-8")
    assert re.findall(r"resolved|registry|/home/|/work|\.tgz", text) == []
    locked = json.loads(text)["packages"]
    wanted = package["dependencies"]
    assert locked.pop("")["dependencies"] == wanted
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    for name, entry in locked.items():
        assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+[0-9a-z.-]*", entry["version"]), name
        assert entry["integrity"].startswith("sha512-"), name


def test_npm_is_told_to_leave_addresses_out_of_the_lock_and_to_run_no_scripts() -> None:
    told = (NPM_FOLDER / ".npmrc").read_text(encoding="utf-8").splitlines()
    assert "omit-lockfile-registry-resolved=true" in told
    assert "ignore-scripts=true" in told
    assert [line for line in told if "registry=" in line or "//" in line or "_auth" in line] == []
