"""A real RTSP server in a process of its own, which tests can break in every way that cameras break."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("rtsp_server.py")
LIBFAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
_PROBE = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer;"
    "Gst.init(None); assert all(map(Gst.ElementFactory.find, "
    "['x264enc', 'rtph264pay', 'breakmydata', 'intervideosrc', 'decodebin', 'avdec_h264']))"
)


def missing() -> str:
    """Why no RTSP server can run here; empty when one can."""
    try:
        probe = subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"NO RTSP SERVER HERE, live tests skipped: {error}"
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["?"])[-1]
        return f"NO RTSP SERVER HERE, live tests skipped; install .ci/test-packages.txt with apt ({last})"
    return (
        ""
        if LIBFAKETIME
        else "NO LIBFAKETIME HERE, live tests skipped; install .ci/test-packages.txt with apt"
    )


_MISSING = missing()
needs_rtsp_server = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RtspCamera:
    """A camera at `url`. `login`: "user:password" that it demands. `arguments`: more of `rtsp_server.py`.

    A context manager; `kill` and `start` may be called in between, the address stays the same.
    """

    def __init__(self, folder: Path, *arguments: str, login: str | None = None) -> None:
        self._arguments = list(arguments)
        self._port = free_port()
        self._clock = folder / "camera-clock"
        self._clock.write_text("+0")
        if login is not None:
            path = folder / "camera-login"
            path.write_text(login)
            self._arguments += ["--login", str(path)]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return self.url_as("")

    def url_as(self, credentials: str) -> str:
        """The address with "user:password" in it."""
        return f"rtsp://{credentials}{'@' if credentials else ''}127.0.0.1:{self._port}/cam"

    def __enter__(self) -> RtspCamera:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server and wait until it listens. It lives on a clock of its own (`set_clock_back`)."""
        assert LIBFAKETIME is not None
        clock = {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(SERVER), "--port", str(self._port), *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | clock,
        )
        self._expect("ready")

    def kill(self) -> None:
        """The power is cut."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def freeze(self) -> None:
        """The whole camera hangs: sockets stay open, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def tell(self, command: str) -> None:
        """Give a command of `rtsp_server.py` and wait until it is carried out."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self._expect("ok")

    def set_clock_back(self, seconds: int) -> None:
        """The camera's clock is wrong from now on."""
        self._clock.write_text(f"-{seconds}")

    def _expect(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line == word, f"the RTSP server said {line!r} instead of {word!r}"


def wait_for(
    condition: Callable[[], bool], what: str, timeout_s: float = 60.0, every_s: float = 0.02
) -> None:
    """Wait until `condition()` holds; fails with `what` after a generous time."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(every_s)
