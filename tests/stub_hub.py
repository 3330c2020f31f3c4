"""A model hub on 127.0.0.1 with one repository, as slow or as broken as a test wants it."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub:
    """Serves `files` of `repository`. `ranges`: what was asked for, as (file, Range header or None).

    large: names that are stored by SHA-256, as large files are. wait_after: bytes of a large file after which each block
    takes a fifth of a second.
    """

    def __init__(
        self, repository: str, files: Mapping[str, bytes], *, large: set[str], wait_after: int | None = None
    ) -> None:
        self.repository, self.files, self.large = repository, dict(files), large
        self.wait_after = wait_after
        self.ranges: list[tuple[str, str | None]] = []
        self.wrong: dict[str, bytes] = {}
        self.paused = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = self.path.split("?")[0].strip("/")
                if path.startswith(f"api/models/{hub.repository}"):
                    return self._send(json.dumps(hub.listing()).encode())
                name = path.removeprefix(f"{hub.repository}/resolve/{COMMIT}/")
                if name not in hub.files:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
                return self._send_file(name)

            def _send(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _send_file(self, name: str) -> None:
                asked = self.headers.get("Range")
                hub.ranges.append((name, asked))
                body = hub.wrong.get(name, hub.files[name])
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                self.send_response(206 if asked else 200)
                if asked:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                for at in range(start, len(body), 1 << 16):
                    if name in hub.large and hub.wait_after is not None and at >= hub.wait_after:
                        hub.paused.set()
                        time.sleep(0.2)
                    try:
                        self.wfile.write(body[at : at + (1 << 16)])
                    except OSError:
                        return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, body in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(body)}
            entry["blobId"] = hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
            if name in self.large:
                entry["lfs"] = {
                    "sha256": hashlib.sha256(body).hexdigest(),
                    "size": len(body),
                    "pointerSize": 130,
                }
            siblings.append(entry)
        return {"id": self.repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
