"""What leaves for the error tracker: the exception and plain facts, no person, no request, no secret."""

from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from steelyard.runtime import errors_out


class Caught(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)


def test_without_an_address_nothing_is_started() -> None:
    assert errors_out.start_error_reports(None, release="1") is False
    assert errors_out.start_error_reports("", release="1") is False
    errors_out.report_error(RuntimeError("nobody hears this"))
    assert not sentry_sdk.is_initialized()


def test_a_report_tells_the_exception_and_hides_secrets() -> None:
    try:
        assert errors_out.start_error_reports("http://key@127.0.0.1:1/1", release="1")
        caught = Caught()
        sentry_sdk.get_client().transport = caught
        try:
            token, password = "abc" + ".def", "hunter" + "2"
            raise RuntimeError(
                f"refused Bearer {token} at /balance?token={token}&x={len(password)}"
            )
        except RuntimeError as error:
            errors_out.report_error(error, request_id="r-1", route="/x", user=None)
        errors_out.stop_error_reports()
    finally:
        sentry_sdk.get_client().close()
        sentry_sdk.Scope.get_global_scope().set_client(None)
    [envelope] = caught.envelopes
    event: Any = envelope.get_event()
    text = str(event)
    assert event["tags"] == {"request_id": "r-1", "route": "/x"}
    assert "RuntimeError" in text
    assert "abc.def" not in text
    assert "hunter2" not in text
    assert "user" not in event
    assert "request" not in event
