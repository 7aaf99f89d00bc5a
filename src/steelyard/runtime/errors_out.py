"""Reports unexpected exceptions to Sentry when a DSN is set; otherwise nothing leaves the process."""

from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.types import Event, Hint

from steelyard.runtime.logs import hide

FLUSH_DEADLINE_S = 2.0


def start_error_reports(dsn: str | None, *, release: str) -> bool:
    """Begin to report, without personal data, bodies, headers or variables. Returns whether it does."""
    if not dsn:
        return False
    sentry_sdk.init(
        dsn=dsn,
        release=f"steelyard@{release}",
        data_collection={
            "user_info": False,
            "cookies": {"mode": "off"},
            "http_headers": {"request": {"mode": "off"}},
            "http_bodies": [],
            "url_query_params": {"mode": "off"},
            "database_query_data": False,
            "stack_frame_variables": False,
        },
        traces_sample_rate=0.0,
        auto_enabling_integrations=False,
        default_integrations=False,
        integrations=[LoggingIntegration(level=None, event_level=None)],
        before_send=_without_secrets,
    )
    return True


def report_error(error: BaseException, **facts: str | None) -> None:
    """Report one exception with plain facts; does nothing when reporting was not started."""
    if not sentry_sdk.is_initialized():
        return
    with sentry_sdk.new_scope() as scope:
        for name, value in facts.items():
            if value is not None:
                scope.set_tag(name, value)
        scope.capture_exception(error)


def stop_error_reports() -> None:
    """Send what waits, for two seconds at most."""
    if sentry_sdk.is_initialized():
        sentry_sdk.flush(timeout=FLUSH_DEADLINE_S)


def _without_secrets(event: Event, _: Hint) -> Event | None:
    cleaned: Any = hide(event)
    cleaned.pop("user", None)
    cleaned.pop("request", None)
    return cleaned  # type: ignore[no-any-return]
