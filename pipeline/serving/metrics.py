"""The numbers of a run for Prometheus."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.core.clock import NS
from pipeline.core.records import Gap
from pipeline.runtime.progress import RunObserver, StreamProgress

LATENCY_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0)
_PLACES = ("waiting", "analysing", "captioning", "ready", "recording")


class RunMetrics(RunObserver, Collector):
    """Counts what a run tells, and hands it out. `registry`: what a scrape returns."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._mutex = threading.Lock()
        self._progress: dict[str, StreamProgress] = {}
        self._gap_frames: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._restarts: Counter[tuple[str, str]] = Counter()
        self._steps: Counter[str] = Counter()
        self._latency = Histogram(
            "sca_queryable_latency_seconds",
            "From reading a keyframe to its rows being durable",
            ["stream"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._step = Gauge(
            "sca_shed_step",
            "0: full effort; `sca query --gaps` shows the steps",
            ["stream"],
            registry=self.registry,
        )
        self._up = Gauge("sca_stream_up", "1 while the stream is watched", ["stream"], registry=self.registry)
        self._depth = Gauge("sca_queue_depth", "Keyframes at each stage", ["stage"], registry=self.registry)
        self._memory = Gauge(
            "sca_stage_resident_memory_bytes",
            "Memory of each stage's process",
            ["stage"],
            registry=self.registry,
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def progress(self, now: StreamProgress) -> None:
        with self._mutex:
            self._progress[now.stream] = now
        self._latency.labels(now.stream)

    def gap(self, stream: str, gap: Gap) -> None:
        if gap.frames:
            with self._mutex:
                self._gap_frames[stream, gap.reason] += gap.frames

    def queryable(self, stream: str, latency_s: float) -> None:
        self._latency.labels(stream).observe(latency_s)

    def shed(self, stream: str, step: int) -> None:
        self._step.labels(stream).set(step)
        with self._mutex:
            self._steps[stream] += 1

    def restarted(self, what: str, stream: str) -> None:
        with self._mutex:
            self._restarts[what, stream] += 1

    def running(self, streams: Mapping[str, bool]) -> None:
        for stream, up in streams.items():
            self._up.labels(stream).set(up)

    def depths(self, depths: Mapping[str, int]) -> None:
        for place in _PLACES:
            self._depth.labels(place).set(depths.get(place, 0))

    def memory(self, stage: str, resident_bytes: int) -> None:
        self._memory.labels(stage).set(resident_bytes)

    def collect(self) -> Iterator[Metric]:
        """What is counted in totals."""
        with self._mutex:
            streams = list(self._progress.values())
            gap_frames, restarts, steps = dict(self._gap_frames), dict(self._restarts), dict(self._steps)
        totals = (
            ("frames", "Frames decoded", lambda now: now.frames),
            ("keyframes", "Keyframes recorded", lambda now: now.keyframes),
            ("regions", "Observations of tracked regions recorded", lambda now: now.regions),
            ("captions", "Captions made", lambda now: now.captions),
            ("captions_avoided", "Observations that needed no caption", lambda now: now.avoided.captions),
            (
                "prompts_avoided",
                "Tracks that stood still and were not looked for",
                lambda now: now.avoided.prompts,
            ),
            (
                "looks_avoided",
                "Keyframes that showed the same and were not looked at",
                lambda now: now.avoided.looks,
            ),
            ("reconnects", "Connections made again by the source", lambda now: now.reconnects),
        )
        for name, text, value in totals:
            family = CounterMetricFamily(f"sca_{name}", text, labels=["stream"])
            for now in streams:
                family.add_metric([now.stream], value(now))
            yield family
        drops = CounterMetricFamily("sca_frames_lost", "Frames not looked at", labels=["stream", "reason"])
        for (stream, reason), frames in gap_frames.items():
            drops.add_metric([stream, reason], frames)
        yield drops
        again = CounterMetricFamily("sca_restarts", "Starts after a failure", labels=["what", "stream"])
        for (what, stream), count in restarts.items():
            again.add_metric([what, stream], count)
        yield again
        shed = CounterMetricFamily("sca_shed_changes", "Steps of effort taken, down or up", labels=["stream"])
        for stream, count in steps.items():
            shed.add_metric([stream], count)
        yield shed
        position = GaugeMetricFamily("sca_position_seconds", "Stream time analysed", labels=["stream"])
        for now in streams:
            position.add_metric([now.stream], now.position_ns / NS)
        yield position
