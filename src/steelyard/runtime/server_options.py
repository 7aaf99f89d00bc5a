"""How the HTTP server under the application is set up."""

from typing import Any

from steelyard.runtime.settings import Settings
from steelyard.runtime.whole_answers import WholeAnswers


def options_of_server(settings: Settings) -> dict[str, Any]:
    """Return what `uvicorn.Config` is given beside the application: ours is the only access log."""
    return {
        "host": settings.host,
        "http": WholeAnswers,
        "loop": "uvloop",
        # Sans-I/O: no task per connection; measured beside uvicorn's other one for `websockets`, 18.5 against 22.7 KiB a
        # connection and 14 against 20 us of CPU a frame. Its own pings cut half-open connections after 45 s. Beyond
        # `ws_max_size` a frame is not even read (1009); up to it the gateway says what is wrong. Compression would
        # double what a connection holds.
        "ws": "websockets-sansio",
        "ws_max_size": 65_536,
        "ws_ping_interval": 25.0,
        "ws_ping_timeout": 20.0,
        "ws_per_message_deflate": False,
        # Nothing here asks for a client's address or scheme, so nobody needs to be believed about them.
        "proxy_headers": False,
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "date_header": False,
        "backlog": 2048,
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 10,
    }
