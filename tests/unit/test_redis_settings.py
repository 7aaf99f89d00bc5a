"""Which Redis is meant: the product's own name first, else the four that programs of the reference use."""

import pytest
from pydantic import ValidationError

from steelyard.cli.config import list_settings
from steelyard.runtime.settings import load_settings

NAMES = (
    "STEELYARD_REDIS_URL",
    *(f"QUEUE_REDIS_{one}" for one in ("HOST", "PORT", "PASSWORD", "DB")),
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with none of the names."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, None),
        ({"QUEUE_REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"QUEUE_REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"QUEUE_REDIS_DB": "0"}, "redis://localhost:6379/0"),
        ({"QUEUE_REDIS_PASSWORD": "p@ss/w"}, "redis://:p%40ss%2Fw@localhost:6379/0"),
        (
            {
                "QUEUE_REDIS_HOST": "::1",
                "QUEUE_REDIS_PORT": "7000",
                "QUEUE_REDIS_PASSWORD": "x",
                "QUEUE_REDIS_DB": "3",
            },
            "redis://:x@[::1]:7000/3",
        ),
        (
            {"STEELYARD_REDIS_URL": "unix:///run/redis.sock", "QUEUE_REDIS_HOST": "cache"},
            "unix:///run/redis.sock",
        ),
    ],
)
def test_names_form_the_address(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], meant: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    address = load_settings().redis_address
    assert (address and address.get_secret_value()) == meant


@pytest.mark.parametrize("url", ["http://:geheim@cache", "geheim", "redis://:ge/heim@cache:1"])
def test_an_address_that_is_none_is_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("STEELYARD_REDIS_URL", url)
    with pytest.raises(ValidationError) as refused:
        load_settings()
    assert "heim" not in str(refused.value)


def test_config_shows_each_name_and_hides_what_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEELYARD_REDIS_URL", "redis://:geheim@cache:6379/0")
    monkeypatch.setenv("QUEUE_REDIS_PASSWORD", "geheim")
    monkeypatch.setenv("QUEUE_REDIS_PORT", "7000")
    rows = {row["name"]: row for row in list_settings()}
    assert rows.keys() >= set(NAMES)
    assert "geheim" not in str(rows)
    assert (rows["QUEUE_REDIS_PORT"]["value"], rows["QUEUE_REDIS_PORT"]["source"]) == (
        "7000",
        "environment",
    )
