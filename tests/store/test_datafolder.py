"""Secrets of the data folder: made once, whole, and used only while nobody else can read them."""

from pathlib import Path

import pytest

from steelyard.cli.demo import is_demo_due
from steelyard.runtime.datafolder import (
    DataFolderMissing,
    DemoState,
    Secret,
    SecretUnusable,
    find_folder,
    make_secret,
    note_demo_state,
    open_folder,
    read_demo_state,
    read_secret,
)


def test_a_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data")
    first = make_secret(folder, Secret.JWT)
    path = folder.secret_path(Secret.JWT)
    assert make_secret(folder, Secret.JWT) == first == read_secret(folder, Secret.JWT)
    assert len(first) >= 43
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    folder = open_folder(tmp_path / "data")
    make_secret(folder, Secret.JWT)
    folder.secret_path(Secret.JWT).chmod(mode)
    for use in (read_secret, make_secret):
        with pytest.raises(SecretUnusable, match="others can read"):
            use(folder, Secret.JWT)


@pytest.mark.parametrize("text", ["", "\n", "short"])
def test_a_damaged_secret_is_refused_and_never_replaced(tmp_path: Path, text: str) -> None:
    folder = open_folder(tmp_path / "data")
    make_secret(folder, Secret.JWT)
    folder.secret_path(Secret.JWT).write_text(text)
    with pytest.raises(SecretUnusable):
        make_secret(folder, Secret.JWT)
    assert folder.secret_path(Secret.JWT).read_text() == text


def test_looking_for_a_folder_makes_none(tmp_path: Path) -> None:
    with pytest.raises(DataFolderMissing):
        find_folder(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_is_loaded_once_resumed_and_never_forced(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "data")
    assert is_demo_due(folder, None)
    assert is_demo_due(folder, None), "an interrupted load is due again"
    note_demo_state(folder, DemoState.LOADED)
    assert not is_demo_due(folder, None)
    other = open_folder(tmp_path / "other")
    assert not is_demo_due(other, False)
    assert read_demo_state(other) is DemoState.DECLINED
    assert not is_demo_due(other, None)
    assert is_demo_due(other, True)
