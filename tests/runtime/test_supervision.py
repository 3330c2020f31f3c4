"""A run on Ray whose processes are killed one after the other: it goes on by itself, and its metrics tell the truth."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.runtime.inline import run_inline
from pipeline.runtime.on_ray.driver import run_on_ray
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import Observers, RunObserver, StopRequest, StreamProgress
from pipeline.serving.health import Health, health_server
from pipeline.serving.metrics import RunMetrics
from pipeline.settings.config import load_config
from pipeline.settings.stream_list import stream_requests
from pipeline.store import CaptionStore
from tests.tiny_checkpoint import QUICK
from tests.videos import write_video

DENSE = (*QUICK, "recording.commit_s=0.1", "keyframes.change=0", "restarts.first_delay_s=0.1")
KINDS = ("PerceptionActor", "CaptionerActor", "RecorderActor", "SourceActor")


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, shared_ray: None) -> Path:
    return tiny_checkpoint


def actor_process(kind: str) -> psutil.Process:
    """A worker process of Ray under this one that holds an actor of that class."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith(f"ray::{kind}"):
                return process
        except (psutil.NoSuchProcess, IndexError):
            continue
    raise AssertionError(f"no {kind} is running")


class Killer(RunObserver):
    """Kills one stage after the other, each time when the watched stream has got further since the last death."""

    def __init__(self, stream: str, kinds: tuple[str, ...], keyframes: int) -> None:
        self._stream = stream
        self._left = list(kinds)
        self._keyframes = keyframes
        self._since: int | None = None
        self.killed: list[str] = []

    def progress(self, now: StreamProgress) -> None:
        if now.stream != self._stream or not self._left:
            return
        self._since = now.keyframes if self._since is None else self._since
        if now.keyframes - self._since >= self._keyframes:
            kind = self._left.pop(0)
            os.kill(actor_process(kind).pid, signal.SIGKILL)
            self.killed.append(kind)
            self._since = None


class Rows(RunObserver):
    """Rows that a reader has seen committed during a run, to be found again afterwards."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self.seen: set[tuple[str, int, int]] = set()
        self.answers: dict[str, set[int]] = {}
        self.port = 0

    def restarted(self, what: str, stream: str) -> None:
        self.seen |= set(observations(self._store))
        for path in ("/healthz", "/readyz"):
            self.answers.setdefault(path, set()).add(fetch(self.port, path)[0])

    def running(self, streams: Mapping[str, bool]) -> None:
        if streams and not all(streams.values()) and 503 not in self.answers.get("/readyz", set()):
            self.answers.setdefault("/readyz", set()).add(fetch(self.port, "/readyz")[0])

    def queryable(self, stream: str, latency_s: float) -> None:
        if 200 not in self.answers.get("/readyz", set()):
            self.answers.setdefault("/readyz", set()).add(fetch(self.port, "/readyz")[0])


def observations(store: Path) -> list[tuple[str, int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return list(zip(table["stream"], table["frame"].tolist(), table["track"].tolist(), strict=True))


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scraped(port: int) -> dict[tuple[str, frozenset[str]], float]:
    """Sample name and label values -> value."""
    families = text_string_to_metric_families(fetch(port, "/metrics")[1])
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def sample(name: str, *labels: str) -> tuple[str, frozenset[str]]:
    return name, frozenset(labels)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[RunMetrics, Health, int]]:
    metrics, health = RunMetrics(), Health(deadline_s=300)
    with health_server("127.0.0.1", 0, metrics, health) as port:
        yield metrics, health, port


@pytest.mark.slow
def test_killed_stages_come_back_without_a_row_lost_or_doubled_and_the_metrics_agree(
    checkpoint: Path, tmp_path: Path, served: tuple[RunMetrics, Health, int]
) -> None:
    """Two files with settings of their own; the process of every kind of stage is killed in the midst of it."""
    metrics, health, port = served
    write_video(tmp_path / "left.mp4", frames=275, width=96, height=64)
    write_video(tmp_path / "right.mp4", frames=450, width=96, height=64)
    cams = tmp_path / "cams.yaml"
    cams.write_text(
        f"streams:\n"
        f"- {{name: left, uri: {tmp_path}/left.mp4, settings: {{keyframes.interval_s: 0.2}}}}\n"
        f"- {{name: right, uri: {tmp_path}/right.mp4, settings: {{keyframes.interval_s: 1}}}}\n"
    )
    config, requests = stream_requests([str(cams)], settings=DENSE, changes={"model": str(checkpoint)})
    calm, store = tmp_path / "calm.zarr", tmp_path / "killed.zarr"
    run_inline(plan_run(requests, config, store=calm), RunObserver(), StopRequest())

    assert fetch(port, "/readyz")[0] == 503
    plan = plan_run(requests, config, store=store)
    killer, rows = Killer("left", KINDS, keyframes=5), Rows(store)
    rows.port = port
    progress = run_on_ray(plan, Observers(metrics, health, rows, killer), StopRequest())

    assert killer.killed == list(KINDS)
    assert all(stream.finished for stream in progress)
    after = observations(store)
    assert len(set(after)) == len(after)
    assert rows.seen
    assert rows.seen <= set(after)
    with CaptionStore.open(store) as opened:
        assert opened.gaps().num_rows == 0
        assert opened.coverage() == pytest.approx(1.0)
        assert {name: opened.resume(name).frame for name in opened.streams()} == {"left": 274, "right": 449}
    # The same keyframes as an undisturbed run. A track needs two sightings, so the one behind a start may show none.
    frames = {(stream, frame) for stream, frame, _ in after}
    expected = {(stream, frame) for stream, frame, _ in observations(calm)}
    assert frames <= expected
    assert len(expected - frames) <= 2 * len(KINDS)

    assert rows.answers == {"/healthz": {200}, "/readyz": {200, 503}}
    now = scraped(port)
    for stream in progress:
        mine = [row for row in after if row[0] == stream.stream]
        # What a recorder stored just before it was killed is not told to anybody, and so not counted.
        assert now[sample("sca_regions_total", stream.stream)] > len(mine) / 2
        assert now[sample("sca_queryable_latency_seconds_count", stream.stream)] > 0
        assert now[sample("sca_stream_up", stream.stream)] == 0
    right = next(stream for stream in progress if stream.stream == "right")
    assert now[sample("sca_restarts_total", "stream", "right")] == right.restarts >= 1
    for kind in ("perception", "captioner", "recorder"):
        assert now[sample("sca_restarts_total", kind, "")] == 1
    sources = (now.get(sample("sca_restarts_total", "source", name), 0) for name in ("left", "right"))
    assert sum(sources) == 1
    assert any(name == "sca_stage_resident_memory_bytes" and value > 1e6 for (name, _), value in now.items())
    assert fetch(port, "/nonsense")[0] == 404


def test_where_nothing_is_killed_each_number_of_the_metrics_is_that_of_the_store(
    checkpoint: Path, tmp_path: Path, served: tuple[RunMetrics, Health, int]
) -> None:
    """What happens to a run whose stages fail is asked of the simulated driver: `test_driver.py`."""
    metrics, health, port = served
    clip = write_video(tmp_path / "clip.mp4", frames=100, width=96, height=64)
    store = tmp_path / "s.zarr"
    config = load_config("default", (*DENSE, "keyframes.interval_s=0.2"), changes={"model": str(checkpoint)})
    plan = plan_run([str(clip)], config, store=store)
    (progress,) = run_on_ray(plan, Observers(metrics, health), StopRequest())
    assert progress.finished
    rows = observations(store)
    assert len(set(rows)) == len(rows)
    now = scraped(port)
    assert now[sample("sca_regions_total", "clip")] == progress.regions == len(rows) > 20
    assert now[sample("sca_frames_total", "clip")] == 100
    assert now[sample("sca_keyframes_total", "clip")] == progress.keyframes
    assert now[sample("sca_queryable_latency_seconds_count", "clip")] == progress.keyframes
    assert now[sample("sca_position_seconds", "clip")] == pytest.approx(99 / 25)
    with CaptionStore.open(store) as opened:
        events = opened.captions().num_rows
    captions = now[sample("sca_captions_total", "clip")]
    assert 0 < events <= captions
    assert captions + now[sample("sca_captions_avoided_total", "clip")] <= len(rows)
    assert all(now[sample("sca_queue_depth", place)] == 0 for place in ("waiting", "analysing", "recording"))
