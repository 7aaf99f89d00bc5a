"""Takes the port before anything long is done, and says plainly which one it is."""

import errno
import socket

from steelyard.cli.outcome import CommandFailed, PortTaken

DEFAULT_PORT = 3000
PORTS_TRIED = 100
BACKLOG = 2_048
UNREAD_MS_MAX = 45_000
"""How long a peer may take in nothing of what was sent to it; then the system cuts the connection."""


def take_port(host: str, port: int | None) -> socket.socket:
    """Bind a socket on `host`: to `port`, or without one to 3000 or the next free port.

    The socket is bound and does not listen yet: callers are refused until the server is ready.

    Raises:
        PortTaken: The port that was asked for is taken, or 100 ports in a row are.
        CommandFailed: The host is not one of this machine's addresses.
    """
    if port is not None:
        bound = _bind(host, port)
        if bound is None:
            raise PortTaken(
                f"port {port} on {host} is taken by another program; nothing was started. "
                "Stop that program, or choose another port with --port"
            )
        return bound
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        bound = _bind(host, candidate)
        if bound is not None:
            return bound
    raise PortTaken(
        f"every port from {DEFAULT_PORT} to {DEFAULT_PORT + PORTS_TRIED - 1} on {host} is taken; "
        "nothing was started. Choose one with --port"
    )


def port_of(bound: socket.socket) -> int:
    """Return the port a socket is bound to."""
    port: int = bound.getsockname()[1]
    return port


def _bind(host: str, port: int) -> socket.socket | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CommandFailed(f"the host {host!r} is not known: {error.strerror}") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS_MAX)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise CommandFailed(f"cannot listen on {host} port {port}: {error.strerror}") from error
    bound.set_inheritable(False)
    return bound


def listen_on(bound: socket.socket) -> None:
    """Begin to take connections.

    Raises:
        PortTaken: Another program bound the same port meanwhile and was first to listen.
    """
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise PortTaken(
            f"port {port_of(bound)} was taken by another program while this one was starting; start again"
        ) from error
