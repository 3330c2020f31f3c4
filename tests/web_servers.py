"""Web servers on loopback, as tests need them: with and without ranges, breaking off, live HLS, MJPEG."""

from __future__ import annotations

import http.server
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    """Keeps still, and lets readers go whenever they like."""

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, kind: str, content: bytes, status: int = 200, **headers: str) -> None:
        self.begin(kind, status, Content_Length=str(len(content)), **headers)
        self.write(content)

    def begin(self, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def write(self, content: bytes) -> bool:
        try:
            self.wfile.write(content)
        except OSError:
            return False
        return True


@contextmanager
def serving(answer: Callable[[Handler], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of a server that answers each request by `answer`. `tls`: it speaks HTTPS; the address says http."""
    handler = type("Answering", (Handler,), {"do_GET": lambda self: answer(self)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


class FilmServer:
    """Serves one file. `ranges`: whether it can begin anywhere; `breaks_after`: bytes after which it hangs up each time.

    `asked`: from which byte each request wanted to read.
    """

    def __init__(self, content: bytes, *, ranges: bool = True, breaks_after: int | None = None) -> None:
        self.content = content
        self.ranges = ranges
        self.breaks_after = breaks_after
        self.asked: list[int] = []

    def __call__(self, request: Handler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        since = int(wanted[1]) if wanted else 0
        self.asked.append(since)
        size = len(self.content)
        if not self.ranges or wanted is None:
            since, status, extra = 0, 200, {}
        else:
            status, extra = 206, {"Content_Range": f"bytes {since}-{size - 1}/{size}"}
        request.begin("video/mp4", status, Content_Length=str(size - since), **extra)
        request.write(self.content[since:][: self.breaks_after])


class HlsServer:
    """Serves segments as a live playlist: three at first, then one more each `seconds`, the newest three listed.

    `age_s`: how long that has gone on when it is asked for the first time.
    """

    def __init__(self, segments: list[bytes], seconds: float, *, age_s: float = 0.0) -> None:
        self._segments = segments
        self._seconds = seconds
        self._age_s = age_s
        self._begun: float | None = None

    def __call__(self, request: Handler) -> None:
        name = request.path.strip("/")
        if name.endswith(".m3u8"):
            self._begun = self._begun or time.monotonic() - self._age_s
            ended = name == "vod.m3u8"
            done = min(len(self._segments), 3 + int((time.monotonic() - self._begun) / self._seconds))
            first, done = (0, len(self._segments)) if ended else (max(0, done - 3), done)
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{round(self._seconds)}"]
            lines.append(f"#EXT-X-MEDIA-SEQUENCE:{first}")
            lines += [f"#EXTINF:{self._seconds},\n{number}.ts" for number in range(first, done)]
            text = "\n".join([*lines, *(["#EXT-X-ENDLIST"] if ended else [])]) + "\n"
            request.send("application/vnd.apple.mpegurl", text.encode())
        else:
            request.send("video/mp2t", self._segments[int(name.removesuffix(".ts"))])


def mjpeg(pictures: list[bytes], interval_s: float) -> Callable[[Handler], None]:
    """A camera that sends JPEGs in one endless answer."""

    def answer(request: Handler) -> None:
        request.begin("multipart/x-mixed-replace; boundary=frame")
        number = 0
        while True:
            picture = pictures[number % len(pictures)]
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
            if not request.write(head + picture + b"\r\n"):
                return
            number += 1
            time.sleep(interval_s)

    return answer
