"""A provider is found by name, and its manifest is held to what the engine can keep to."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from steelyard.providers.contract import Limits, Manifest
from steelyard.providers.load import ProviderUnusable, check_manifest, list_names, load_plugin
from steelyard.providers.t24.manifest import MANIFEST, PLUGIN


def test_t24_is_found_without_importing_its_client() -> None:
    assert load_plugin("t24") is PLUGIN
    assert "t24" in list_names()


@pytest.mark.parametrize("name", ["nobody", "nobody.knows", "", "t24.other"])
def test_a_provider_that_is_not_installed_is_an_error(name: str) -> None:
    with pytest.raises(ProviderUnusable, match="not installed"):
        load_plugin(name)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (replace(MANIFEST, name="other"), "named 'other'"),
        (replace(MANIFEST, api_version=2), "version 2"),
        (replace(MANIFEST, title=" "), "no title"),
        (replace(MANIFEST, capabilities=frozenset()), "no capability"),
        (replace(MANIFEST, balance_kinds=frozenset()), "no kind"),
        (replace(MANIFEST, limits=Limits(0.0, 1)), "no request"),
        (replace(MANIFEST, limits=Limits(float("nan"), 1)), "no request"),
        (replace(MANIFEST, limits=Limits(float("inf"), 1)), "no request"),
        (replace(MANIFEST, limits=Limits(1.0, 0)), "no room"),
        (replace(MANIFEST, limits=Limits(1.0, 1, page_rows=0)), "no room"),
    ],
)
def test_a_manifest_that_cannot_be_kept_to_is_refused(manifest: Manifest, said: str) -> None:
    with pytest.raises(ProviderUnusable, match=said):
        check_manifest(manifest, name="t24")


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A distribution with providers of somebody else, on the path."""
    folder = tmp_path / "their_bank-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-bank\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[steelyard.providers]\n"
        "their.bank = their_bank_for_a_test:PLUGIN\n"
        "their.nothing = their_bank_for_a_test:missing\n"
        "their.number = their_bank_for_a_test:NUMBER\n"
        "t24 = their_bank_for_a_test:PLUGIN\n"
        "short = their_bank_for_a_test:SHORT\n"
    )
    (tmp_path / "their_bank_for_a_test.py").write_text(
        "from dataclasses import replace\n"
        "from steelyard.providers.t24.manifest import PLUGIN as T24\n"
        "PLUGIN = replace(T24, manifest=replace(T24.manifest, name='their.bank'))\n"
        "SHORT = replace(T24, manifest=replace(T24.manifest, name='short'))\n"
        "NUMBER = 4\n"
    )
    sys.path.insert(0, str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    sys.modules.pop("their_bank_for_a_test", None)


def test_a_provider_of_somebody_else_is_loaded_only_by_its_name(installed: None) -> None:
    assert "their.bank" in list_names()
    assert load_plugin("t24") is PLUGIN  # ours cannot be replaced
    assert "their_bank_for_a_test" not in sys.modules
    assert load_plugin("their.bank").manifest.name == "their.bank"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("their.nothing", "AttributeError"),
        ("their.number", "no ProviderPlugin"),
        ("short", "vendor.name"),
    ],
)
def test_a_broken_provider_of_somebody_else_is_an_error(
    installed: None, name: str, said: str
) -> None:
    with pytest.raises(ProviderUnusable, match=said):
        load_plugin(name)
