"""Finds providers: ours by name, others by the entry point group `steelyard.providers`.

A provider is loaded only when it is asked for by name; nothing runs because it is installed.
"""

import math
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from steelyard.core.errors import SteelyardError
from steelyard.providers.contract import API_VERSION, Manifest, ProviderPlugin

ENTRY_POINT_GROUP = "steelyard.providers"

BUILT_IN: Mapping[str, str] = MappingProxyType({"t24": "steelyard.providers.t24.manifest:PLUGIN"})

_OUR_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_THEIR_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\.[a-z][a-z0-9-]{0,31}")


class ProviderUnusable(SteelyardError):
    """A provider that is asked for by name is not installed, or does not keep to the contract."""

    code = "provider_unusable"

    def __init__(self, *, provider: str, problem: str) -> None:
        self.provider, self.problem = provider, problem
        super().__init__(f"the provider {provider!r} cannot be used: {problem}")


def load_plugin(name: str) -> ProviderPlugin:
    """Return the provider of this name, its manifest checked.

    Raises:
        ProviderUnusable: None of this name is installed, two are, it cannot be imported, or its manifest is not
            acceptable.
    """
    plugin = _find_entry(name).load() if name in BUILT_IN else _load_theirs(name)
    if not isinstance(plugin, ProviderPlugin):
        raise ProviderUnusable(provider=name, problem="its entry point names no ProviderPlugin")
    check_manifest(plugin.manifest, name=name)
    return plugin


def list_names() -> list[str]:
    """Return the names of all providers that are installed; none of them is imported."""
    return sorted({*BUILT_IN, *(one.name for one in entry_points(group=ENTRY_POINT_GROUP))})


def check_manifest(manifest: Manifest, *, name: str) -> None:
    """Refuse a manifest that the engine could not keep to.

    Raises:
        ProviderUnusable: It says what is wrong with it.
    """
    problem = _manifest_problem(manifest, name)
    if problem is not None:
        raise ProviderUnusable(provider=name, problem=problem)


def _manifest_problem(manifest: Manifest, name: str) -> str | None:
    limits = manifest.limits
    if manifest.name != name:
        return f"its manifest is named {manifest.name!r}"
    if not (_OUR_NAME if name in BUILT_IN else _THEIR_NAME).fullmatch(name):
        return "its name is not of the form vendor.name"
    if manifest.api_version != API_VERSION:
        return (
            f"it was written for version {manifest.api_version} of the contract, not {API_VERSION}"
        )
    if not manifest.title.strip() or not manifest.capabilities:
        return "its manifest declares no title or no capability"
    if not manifest.balance_kinds or not manifest.amount_encodings:
        return "its manifest declares no kind of balance or no form of amounts"
    if not (math.isfinite(limits.requests_per_s) and limits.requests_per_s > 0):
        return "it may send no request a second"
    if limits.in_flight < 1 or (limits.page_rows is not None and limits.page_rows < 1):
        return "its limits leave no room for a request"
    return None


def _find_entry(name: str) -> EntryPoint:
    return EntryPoint(name=name, value=BUILT_IN[name], group=ENTRY_POINT_GROUP)


def _load_theirs(name: str) -> object:
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if len(found) != 1:
        many = "it is installed more than once" if found else "it is not installed"
        raise ProviderUnusable(provider=name, problem=many)
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise ProviderUnusable(provider=name, problem=f"{type(error).__name__}: {error}") from error
