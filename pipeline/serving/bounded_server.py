"""An HTTP server that strangers cannot wear out: so many connections at most, each for so long at most."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

log = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

MOST_CONNECTIONS = 16
"""A scraper, an orchestrator's probes and a person with a browser hold two or three."""
MOST_SECONDS = 10.0
"""For a request and its answer together, which take milliseconds: what lasts longer sends its request byte by byte."""
# When this process may open no more files, the next try to take a connection would fail at once too.
_PAUSE_S = 0.2


class _QuietHandler(WSGIRequestHandler):
    timeout = MOST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no news."""


class BoundedServer(ThreadingMixIn, WSGIServer):
    """Serves `application` at `address` (IPv4 or IPv6) and `port`, a thread for each connection.

    One connection more than `MOST_CONNECTIONS` ends the oldest, so that half requests that never go on keep nobody out;
    after `MOST_SECONDS` each is ended whatever it does. Raises OSError where it cannot listen.
    """

    daemon_threads = True
    request_queue_size = 2 * MOST_CONNECTIONS

    def __init__(self, address: str, port: int, application: Application) -> None:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self._until: dict[socket.socket, float] = {}
        self._mutex = threading.Lock()
        super().__init__(found[0][4][:2], _QuietHandler)  # type: ignore[arg-type]
        self.set_app(application)

    def server_bind(self) -> None:
        """As the base class, but it asks no name server what this machine is called."""
        if self.address_family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # :: is every address then, those of IPv4 too
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_PAUSE_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._mutex:
            while len(self._until) >= MOST_CONNECTIONS:
                self._cut(next(iter(self._until)))
            self._until[request] = time.monotonic() + MOST_SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._mutex:
            self._until.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second: what has lasted too long is ended, though bytes may still trickle in."""
        now = time.monotonic()
        with self._mutex:
            for request in [one for one, until in self._until.items() if now > until]:
                self._cut(request)

    def server_close(self) -> None:
        with self._mutex:
            for request in list(self._until):
                self._cut(request)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request broke off", exc_info=True)

    def _cut(self, request: socket.socket) -> None:
        """End a connection; its thread finds it so, and closes it."""
        del self._until[request]
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
