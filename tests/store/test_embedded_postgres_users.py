"""What the embedded PostgreSQL promises to root and to users without a home or a name."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from steelyard.runtime.embedded import Binaries, EmbeddedServer, start_embedded_postgres
from steelyard.runtime.embedded.binaries import copy_binaries
from steelyard.runtime.embedded.errors import RootUnsupported
from steelyard.runtime.embedded.folder import DataFolder
from steelyard.runtime.embedded.launch_ways import (
    LaunchIdentity,
    LaunchWay,
    run_as_service_user,
    run_directly,
    run_in_user_namespace,
)
from tests.store.embedded_kit import (
    IS_ROOT,
    PROGRAMS,
    Someone,
    act_as,
    modes_above,
    name_of,
    query,
    quiet,
    short_place,
    started,
)

# What this machine allows decides which ways must work; the others must say why they do not.
WAYS: tuple[LaunchWay, ...] = (run_directly, run_in_user_namespace, run_as_service_user)


@pytest.fixture
def place() -> Iterator[Path]:
    with short_place() as path:
        yield path


@pytest.fixture(params=PROGRAMS, ids=name_of)
def binaries(request: pytest.FixtureRequest) -> Binaries:
    found: Binaries = request.param
    return found


def user_seen_by(server: EmbeddedServer) -> int:
    """Return the user of the server's process as the system outside sees it."""
    return Path(f"/proc/{server.pid}").stat().st_uid


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_each_way_works_or_says_why_not_and_touches_no_folder_above(
    place: Path, binaries: Binaries, way: LaunchWay
) -> None:
    place.chmod(0o711)
    above = modes_above(place / "data")
    data_dir = place / "data"
    identity = way(DataFolder(data_dir))
    if not isinstance(identity, LaunchIdentity):
        with pytest.raises(RootUnsupported) as caught:
            start_embedded_postgres(data_dir, report=quiet, binaries=binaries, ways=(way,))
        assert caught.value.code == "root_unsupported"
        assert identity.reason in str(caught.value)
        assert not (data_dir / "postgres").exists()
    else:
        for _ in range(2):
            with started(data_dir, binaries, ways=(way,)) as server:
                assert query(server.address, "SELECT 1") == [(1,)]
                assert user_seen_by(server) == identity.uid
                assert (data_dir / "postgres").stat().st_uid == identity.uid
        assert (data_dir / "secrets").stat().st_uid == os.geteuid()
    assert modes_above(data_dir) == above


def test_root_has_at_least_one_way_and_others_need_none() -> None:
    with short_place() as place:
        place.chmod(0o711)
        found = [way(DataFolder(place / "data")) for way in WAYS]
    assert isinstance(found[0], LaunchIdentity) is not IS_ROOT
    assert any(isinstance(one, LaunchIdentity) for one in found)


def test_a_service_user_is_not_let_through_a_private_folder(place: Path) -> None:
    data_dir = place / "private" / "data"
    data_dir.parent.mkdir(0o700)
    above = modes_above(data_dir)
    with pytest.raises(RootUnsupported, match="ordinary user"):
        start_embedded_postgres(
            data_dir, report=quiet, binaries=PROGRAMS[0], ways=(run_as_service_user,)
        )
    assert modes_above(data_dir) == above
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert not (data_dir / "postgres").exists()


def test_programs_the_service_user_cannot_read_are_copied_into_the_data_folder(
    place: Path, binaries: Binaries
) -> None:
    place.chmod(0o711)
    private = place / "private"
    private.mkdir(0o700)
    module = binaries.root.parent
    shutil.copytree(binaries.root, private / module.name / binaries.root.name, symlinks=True)
    if binaries.libraries is not None:
        shutil.copytree(binaries.libraries, private / binaries.libraries.name)
    hidden = Binaries(private / module.name / binaries.root.name, binaries.source, binaries.version)
    ways = (run_as_service_user,) if IS_ROOT else (run_directly,)
    with started(place / "data", hidden, ways=ways) as server:
        assert query(server.address, "SELECT 1") == [(1,)]
        program = Path(f"/proc/{server.pid}/exe").resolve()
        assert program.is_relative_to(place / "data" / "programs") is IS_ROOT
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


NAMELESS = 54321


def somebody(name_or_number: str | int) -> Someone:
    """Return another user where the tests run as root, and else the one who runs them."""
    if not IS_ROOT:
        return Someone(None, None)
    if isinstance(name_or_number, int):
        return Someone(name_or_number, name_or_number)
    user = pwd.getpwnam(name_or_number)
    return Someone(user.pw_uid, user.pw_gid)


@pytest.fixture
def readable(place: Path) -> Binaries:
    """Programs that every user can read, wherever this checkout lies."""
    place.chmod(0o711)
    return copy_binaries(PROGRAMS[0], place / "programs")


def start_and_stop(data_dir: Path, binaries: Binaries) -> str:
    with started(data_dir, binaries) as server:
        return f"answered {query(server.address, 'SELECT 1')}"


@pytest.mark.parametrize("environment", [{}, {"HOME": "/nonexistent"}], ids=["unset", "missing"])
def test_an_ordinary_user_without_a_home_can_start(
    place: Path, readable: Binaries, environment: dict[str, str]
) -> None:
    user = somebody("nobody")
    os.chown(place, user.owner, -1)
    answer = act_as(user, environment, lambda: start_and_stop(place / "data", readable))
    assert answer == "answered [(1,)]"
    assert {path.lstat().st_uid for path in (place / "data").rglob("*")} == {user.owner}


def test_a_user_without_a_name_can_start_or_is_told_why(place: Path, readable: Binaries) -> None:
    user = somebody(NAMELESS)
    os.chown(place, user.owner, -1)
    folder = DataFolder(place / "data")
    ways = act_as(user, {}, lambda: str([type(way(folder)).__name__ for way in WAYS[:2]]))
    answer = act_as(user, {}, lambda: start_and_stop(place / "data", readable))
    if "LaunchIdentity" in ways:
        assert answer == "answered [(1,)]"
    else:
        assert answer.startswith("root_unsupported: ")
        assert f"user {NAMELESS} has no name" in answer


def test_root_continues_a_users_database_as_that_user_and_leaves_it_theirs(
    place: Path, readable: Binaries
) -> None:
    user = somebody("nobody")
    os.chown(place, user.owner, -1)
    assert act_as(user, {}, lambda: start_and_stop(place / "data", readable)).startswith("answered")
    with started(place / "data", readable) as server:
        assert user_seen_by(server) == user.owner
    assert {path.lstat().st_uid for path in (place / "data").rglob("*")} == {user.owner}
    assert act_as(user, {}, lambda: start_and_stop(place / "data", readable)).startswith("answered")
