"""Addresses: only those that mean this machine, and ports that are ours from the moment they are chosen."""

from __future__ import annotations

import errno
import ipaddress
import socket
from urllib.parse import urlsplit

from quantlab.errors import QuantlabError, UsageError


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine and nothing else.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def api_url(url: str) -> str:
    """The address with `/v1` at its end.

    >>> api_url("http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/v1'
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no port, a bracket left open
        good = False
    if not good:
        raise UsageError(f"{url!r} is no server address; write it as http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address; port 0 lets the system choose a free one.

    It listens from here on and is inherited by the server, so that nobody can take the port while a model loads; who
    connects meanwhile waits.
    """
    if not is_loopback(host):
        raise UsageError(
            f"refusing to listen on {host}: whoever reaches this machine would reach the model; use 127.0.0.1, "
            "and an SSH tunnel to get there from elsewhere"
        )
    host = "127.0.0.1" if host == "localhost" else host
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last connections still time out
        found.bind((host, port))
        found.listen()
    except (OSError, OverflowError) as error:
        found.close()
        raise _why_not_bound(host, port, error) from error
    return found


def _why_not_bound(host: str, port: int, error: Exception) -> QuantlabError:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return QuantlabError(
            f"port {port} of {host} is in use by another program; choose another, or leave it out for a free one"
        )
    if number in (errno.EACCES, errno.EPERM):
        return QuantlabError(f"port {port} is reserved for administrators; choose one from 1024 to 65535")
    if isinstance(error, OverflowError):
        return UsageError(f"there is no port {port}; choose one from 1024 to 65535, or none for a free one")
    return QuantlabError(f"cannot listen on {host}:{port}: {error}; choose another port or 127.0.0.1")
