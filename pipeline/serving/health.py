"""`/metrics`, `/healthz` and `/readyz` over HTTP while a run lasts."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prometheus_client import make_wsgi_app

from pipeline.core.errors import UserError
from pipeline.core.shown_text import shown
from pipeline.runtime.progress import RunObserver
from pipeline.serving.bounded_server import BoundedServer, Environ, StartResponse
from pipeline.serving.metrics import RunMetrics

log = logging.getLogger(__name__)


class Health(RunObserver):
    """Whether the run's loop goes round, and whether every stream is up. `clock`: seconds, steady."""

    def __init__(self, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._deadline_s = deadline_s
        self._clock = clock
        self._alive_s = clock()
        self._streams: dict[str, bool] = {}
        self._broken: str | None = None

    def alive(self) -> None:
        self._alive_s = self._clock()

    def running(self, streams: Mapping[str, bool]) -> None:
        self._streams = dict(streams)

    def broken(self, why: str | None) -> None:
        self._broken = why

    def healthy(self) -> str | None:
        """None, or what is wrong."""
        if self._broken is not None:
            return self._broken
        silent = self._clock() - self._alive_s
        return f"the driver has been silent for {silent:.0f} s" if silent > self._deadline_s else None

    def ready(self) -> str | None:
        """None, or what is missing."""
        if not self._streams:
            return "starting"
        down = [stream for stream, up in self._streams.items() if not up]
        return f"not up: {', '.join(down)}" if down else self.healthy()


@contextmanager
def health_server(address: str, port: int, metrics: RunMetrics, health: Health) -> Iterator[int]:
    """Serve for the length of the block; yields the port, which is the system's choice when `port` is 0.

    `address`: IPv4 or IPv6, in brackets or not. Raises `UserError` when it cannot be listened on.
    """
    scrape = make_wsgi_app(metrics.registry)

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _reply(start_response, "405 Method Not Allowed", "GET or HEAD", [("Allow", "GET, HEAD")])
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            try:
                return scrape({**environ, "REQUEST_METHOD": "GET"}, start_response)
            except Exception:  # what a stranger's headers make of the library: it answers in its plain form
                log.debug("headers of a scrape", exc_info=True)
                asked = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": ""}
                return scrape(asked, start_response)
        checks = {"/healthz": health.healthy, "/readyz": health.ready}
        if path not in checks:
            return _reply(start_response, "404 Not Found", "try /metrics, /healthz or /readyz")
        wrong = checks[path]()
        return _reply(start_response, "200 OK" if wrong is None else "503 Service Unavailable", wrong or "ok")

    try:
        server = BoundedServer(address.removeprefix("[").removesuffix("]"), port, answer)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--metrics-address {address}: this machine has no such address ({getattr(error, 'strerror', None) or 'no name of a machine'}); 127.0.0.1 is for this "
                "machine alone, 0.0.0.0 and :: for others too"
            ) from None
        raise UserError(
            f"--metrics-port {port}: cannot listen on {address} ({error.strerror}); choose another port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def _reply(
    start_response: StartResponse, status: str, text: str, headers: Sequence[tuple[str, str]] = ()
) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{shown(text)}\n".encode()]
