"""Whether anybody listens at an address: cheap enough to ask while backing off."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from pipeline.sources.secrets import BLANK

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
_TIMEOUT_S = 0.5


def answers(url: str) -> bool | None:
    """Whether the host of `url` takes a TCP connection now; None where that cannot be asked (UDP, a bad address).

    The connection is closed at once: no session is made and no password sent.
    """
    try:
        parts = urlsplit(BLANK.sub("_", url))
        port = parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return None
    if parts.scheme.lower() not in _PORTS or not parts.hostname or port is None:
        return None
    try:
        socket.create_connection((parts.hostname, port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True
