"""Logs tell what happened and where, and never the values that were being worked with."""

import io
from typing import Literal

import pytest
import structlog

from steelyard.access.key_sets import FixedKeys
from steelyard.runtime.database import Database
from steelyard.runtime.logs import configure_logs

SECRET = "fourty-three characters that sign everything"
URL = f"postgresql://someone:{SECRET}@here/base"


def fail_beside(values: object) -> None:
    """Fail in a frame that holds a secret under a harmless name."""
    held = [values, SECRET.encode()]
    raise ValueError(f"{len(held)} values were held")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: Literal["json", "console"]) -> None:
    before, told = structlog.get_config(), io.StringIO()
    try:
        configure_logs(form=form, level="info", stream=told)
        try:
            fail_beside(URL)
        except ValueError as error:
            structlog.get_logger().error("something.failed", exc_info=error)
    finally:
        structlog.configure(**before)
    assert "fail_beside" in told.getvalue()
    assert "2 values were held" in told.getvalue()
    assert SECRET not in told.getvalue()


def test_what_holds_a_secret_does_not_show_it() -> None:
    shown = f"{FixedKeys((SECRET.encode(),))!r} {Database(URL)!r}"
    assert SECRET not in shown
