"""A real S3 server for tests, in an environment of its own, and a network before it that fails as it is told to."""

from __future__ import annotations

import fcntl
import http.client
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Its own environment: moto needs an older python-dateutil than the project.
_WHERE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "moto"
_WHAT = "moto[server]==5.2.5"
_SERVER = """
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, create_backend_app("s3"), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""


def _python() -> Path:
    """Of the environment, made where it is not there yet. Skips the test where it cannot be made."""
    python = _WHERE / "bin" / "python"
    _WHERE.parent.mkdir(exist_ok=True)
    with open(_WHERE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (_WHERE / ".ready").exists():
            return python
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "-q", "--clear", str(_WHERE)],
            [*uv, "pip", "install", "-q", "--python", str(python), _WHAT],
        ):
            made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if made.returncode:
                pytest.skip(
                    f"NO S3 SERVER, object storage is not tested: {' '.join(command)}: {made.stderr.strip()}"
                )
        (_WHERE / ".ready").touch()
    return python


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server that holds nothing, as long as the block lasts."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    process = subprocess.Popen(
        [_python(), "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


Fate = Callable[[str, str], str]
"""What becomes of a request by method and path: "pass"; "cut": done, but the answer is lost; "refuse": the connection is closed; or
a status such as "503 SlowDown"."""


class Network:
    """What lies between the tests and the server. `fate` may be changed at any time; `seen`: (method, path, bytes of the answer)."""

    def __init__(self, port: int) -> None:
        self.fate: Fate = lambda method, path: "pass"
        self.seen: list[tuple[str, str, int]] = []
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fate = network.fate(self.command, self.path)
                if fate == "refuse":
                    self.close_connection = True
                    return
                if fate[0].isdigit():
                    status, code = fate.split()
                    answer = f"<Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
                    self.send_response(int(status))
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                    return
                server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                server.request(self.command, self.path, body, dict(self.headers))
                response = server.getresponse()
                data = response.read()
                server.close()
                network.seen.append((self.command, self.path, len(data)))
                if fate == "cut":
                    self.close_connection = True
                    return
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def mend(self) -> None:
        """Nothing fails any more, and nothing was seen."""
        self.fate = lambda method, path: "pass"
        self.seen.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def bucket_environment(port: int, spool: Path) -> dict[str, str]:
    """What tells a process how to reach the server, and nobody else's credentials."""
    return {
        "AWS_ACCESS_KEY_ID": "AKIATESTTEST",
        "AWS_SECRET_ACCESS_KEY": "verysecretkey",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "SCA_SPOOL": str(spool),
    }


def new_bucket(port: int) -> str:
    """Name of an empty bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    return name
