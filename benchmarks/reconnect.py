"""How long after a camera is back until its first new row can be queried?

    python benchmarks/reconnect.py [--outages 2 5 10 20] [--repeats 5] [--model demo]

A real RTSP server (tests/rtsp_server.py under the system's Python) is killed and started again after each outage while
`sca run` reads it with its default settings; beside it, FFmpeg's own way: open, read until it fails, open again at once,
which shows what the server and the decoder need themselves. Measured from the moment the server listens again to the
moment the store holds a row of a frame that came after that. Prints a line a repeat and a table of medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.core.clock import NS  # noqa: E402
from pipeline.store import CaptionStore  # noqa: E402
from tests.rtsp_camera import RtspCamera, missing  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--outages", type=float, nargs="+", default=[2, 5, 10, 20], help="seconds")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--clip", help="a video that the camera shows; without it, a moving ball")
    parser.add_argument("--runtime", default="ray")
    arguments = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory(prefix="sca") as folder:
        bench(arguments, Path(folder))


def bench(arguments: argparse.Namespace, folder: Path) -> None:
    shown = ["--clip", arguments.clip] if arguments.clip else []
    with RtspCamera(folder, *shown) as camera:
        store = folder / "s.zarr"
        command = [
            *(
                sys.executable,
                "-m",
                "pipeline.cli",
                "run",
                camera.url,
                "--name",
                "cam",
                "--store",
                str(store),
            ),
            *("--preset", "live", "--model", arguments.model, "--runtime", arguments.runtime, "--quiet"),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.Popen(command, env=environment, stderr=sys.stderr)
        plain = PlainReader(camera.url)
        ours: dict[float, list[float]] = {outage: [] for outage in arguments.outages}
        bare: dict[float, list[float]] = {outage: [] for outage in arguments.outages}
        try:
            wait_for_row(store, 0, run, 300)
            for repeat in range(arguments.repeats):
                for outage in arguments.outages:
                    time.sleep(8)
                    camera.kill()
                    time.sleep(outage)
                    camera.start()
                    back_ns = time.time_ns()
                    ours[outage].append(wait_for_row(store, back_ns, run, 120))
                    bare[outage].append(plain.first_picture_after(back_ns))
                    line = f"outage {outage:4.0f} s, repeat {repeat + 1}: first new row after {ours[outage][-1]:5.2f} s"
                    print(f"{line}, bare reader's first picture after {bare[outage][-1]:5.2f} s", flush=True)
        finally:
            plain.stop()
            run.send_signal(signal.SIGINT)
            run.wait(60)
    report(ours, bare)


class PlainReader:
    """The baseline: FFmpeg in a loop without any pause."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: list[int] = []
        self._over = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def first_picture_after(self, moment_ns: int) -> float:
        """Seconds from `moment_ns` to the first picture decoded later, which may be in the past."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if later := [seen for seen in list(self._seen) if seen >= moment_ns]:
                return (later[0] - moment_ns) / NS
            time.sleep(0.05)
        sys.exit("the bare reader never saw the camera again")

    def stop(self) -> None:
        self._over.set()

    def _read(self) -> None:
        while not self._over.is_set():
            try:
                with av.open(self._url, options={"rtsp_transport": "tcp"}, timeout=(10, 5)) as container:
                    for _ in container.decode(video=0):
                        self._seen.append(time.time_ns())
                        if self._over.is_set():
                            return
            except (av.FFmpegError, OSError):
                time.sleep(0.05)


def wait_for_row(store: Path, after_ns: int, run: subprocess.Popen[bytes], timeout_s: float) -> float:
    """Seconds from `after_ns` until the store holds an observation of a later moment."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if run.poll() is not None:
            sys.exit("the run ended")
        if (store / "zarr.json").exists():
            with CaptionStore.open(store) as opened:
                if opened.streams() and opened.observations(start=after_ns, limit=1).num_rows:
                    return (time.time_ns() - after_ns) / NS
        time.sleep(0.05)
    sys.exit(f"no new row within {timeout_s:.0f} s")


def report(ours: dict[float, list[float]], bare: dict[float, list[float]]) -> None:
    print(
        f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print("outage   first new row: median (worst)   bare reader: median (worst)   ratio")
    rows = [(f"{outage:4.0f} s", ours[outage], bare[outage]) for outage in ours]
    rows.append(("   all", [s for v in ours.values() for s in v], [s for v in bare.values() for s in v]))
    for name, mine, base in rows:
        a, b = statistics.median(mine), statistics.median(base)
        print(f"{name}   {a:8.2f} s ({max(mine):5.2f} s) {b:20.2f} s ({max(base):5.2f} s) {a / b:14.2f}")


if __name__ == "__main__":
    main()
