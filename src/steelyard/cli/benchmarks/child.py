"""One server of a benchmark in a process of its own: `python -m steelyard.cli.benchmarks.child`.

The plan comes as one line of JSON on stdin; the port goes out as one line on stdout. Each further line is answered
by the processor time used so far. The process ends when stdin does, so that it never outlives whoever started it.
"""

import json
import socket
import sys
import threading
import time
from importlib import import_module
from typing import Any

import uvicorn

from steelyard.cli.benchmarks.product import bench_settings
from steelyard.cli.serving import run_in_loop
from steelyard.runtime.logs import configure_logs

PRODUCT, PEER = "product", "peer"
PUSH_PRODUCT, PUSH_PEER = "push_product", "push_peer"


def main() -> None:
    """Serve what the plan says until stdin ends."""
    plan = json.loads(sys.stdin.readline())
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = {PRODUCT: product_config, PEER: server_config}.get(plan["side"], push_config)
    server = uvicorn.Server(config(_build(plan)))
    threading.Thread(target=_end_with_stdin, args=(server,), daemon=True).start()
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    run_in_loop(server.serve(sockets=[listening]), wants_uvloop=True)


def server_config(application: Any, *, http: Any = "httptools") -> uvicorn.Config:
    """Return the same server for every side; `http` is uvicorn's protocol, or the product's own."""
    return uvicorn.Config(
        application,
        http=http,
        proxy_headers=False,
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        ws="none",
        lifespan="on",
    )


def product_config(application: Any) -> uvicorn.Config:
    """Return the server with the protocol that `serve` gives it."""
    app = import_module("steelyard.app")  # a command may not import the application
    return server_config(application, http=app.server_options(bench_settings())["http"])


def push_config(application: Any) -> uvicorn.Config:
    """Return the server of both sides of `bench push`: the product's own options."""
    app = import_module("steelyard.app")  # a command may not import the application
    options = app.server_options(bench_settings())
    return uvicorn.Config(application, **{**options, "lifespan": "auto", "loop": "none"})


def _build(plan: dict[str, Any]) -> Any:
    if plan["side"] == PUSH_PEER:
        from steelyard.cli.benchmarks.push_peer import create_push_peer

        return create_push_peer(redis_url=plan["redis_url"], secret=plan["secret"])
    if plan["side"] == PUSH_PRODUCT:
        settings = bench_settings(redis_url=plan["redis_url"])
        configure_logs(form=settings.log_format, level=settings.log_level)
        return import_module("steelyard.app").create_app(
            settings, database_url=plan["database_url"], made_secret=plan["secret"]
        )
    if plan["side"] == PEER:
        from steelyard.cli.benchmarks.peer_app import create_peer_app

        return create_peer_app(
            database_url=plan["database_url"], secret=plan["secret"], pool_size=plan["pool_size"]
        )
    from steelyard.cli.benchmarks.null_routes import create_product_app

    settings = bench_settings()
    configure_logs(form=settings.log_format, level=settings.log_level)
    return create_product_app(
        settings, database_url=plan["database_url"], made_secret=plan["secret"]
    )


def _end_with_stdin(server: uvicorn.Server) -> None:
    while sys.stdin.readline():
        sys.stdout.write(f"{time.process_time()}\n")
        sys.stdout.flush()
    server.should_exit = True


if __name__ == "__main__":
    main()
