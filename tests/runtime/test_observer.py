"""What a run tells its observer: both runtimes tell the same of one film, and it is what the store then holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.core.records import Gap, StoredCaption
from pipeline.runtime.inline import run_inline
from pipeline.runtime.on_ray.driver import run_on_ray
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import Observers, RunObserver, StopRequest, StreamProgress
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.shared_ray import SharedRay
from tests.sources.test_sources import damage, packets_of
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video


class Recording(RunObserver):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.last: dict[str, StreamProgress] = {}
        self.gaps: list[tuple[str, Gap]] = []
        self.events: dict[tuple[str, int, int], StoredCaption] = {}
        self.told: Counter[tuple[str, int, int, int]] = Counter()
        self.latencies: list[float] = []
        self.up: list[Mapping[str, bool]] = []
        self.rounds = 0
        self.sizes: dict[str, int] = {}

    def progress(self, now: StreamProgress) -> None:
        self.last[now.stream] = now

    def gap(self, stream: str, gap: Gap) -> None:
        self.gaps.append((stream, gap))

    def captions(self, stream: str, stored: tuple[StoredCaption, ...]) -> None:
        for event in stored:
            self.events[stream, event.track, event.start_ns] = event
            self.told[stream, event.track, event.start_ns, event.end_ns] += 1

    def queryable(self, stream: str, latency_s: float) -> None:
        self.latencies.append(latency_s)

    def running(self, streams: Mapping[str, bool]) -> None:
        self.up.append(dict(streams))

    def memory(self, stage: str, resident_bytes: int) -> None:
        self.sizes[stage] = resident_bytes

    def alive(self) -> None:
        self.rounds += 1

    def seen(self) -> list[tuple[object, ...]]:
        """The caption events as they were told last, without the time of the commit."""
        return sorted(
            (stream, *key, e.end_ns, e.start_pts_ns, e.end_pts_ns, e.text, round(e.score, 4))
            for (stream, *key), e in self.events.items()
        )


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, ray_keeper: SharedRay
) -> dict[str, tuple[Recording, StreamProgress, Path]]:
    """One film with a hole, read by each runtime."""
    folder = tmp_path_factory.mktemp("observed")
    ray_keeper.start()
    clip = write_video(folder / "clip.mp4", frames=100)
    damage(clip, packets_of(clip)[40], "zeros")
    config = load_config("default", LENIENT, changes={"model": str(tiny_checkpoint)})
    found = {}
    for name, start in (("inline", run_inline), ("ray", run_on_ray)):
        observer, store = Recording(), folder / f"{name}.zarr"
        (progress,) = start(plan_run([str(clip)], config, store=store), Observers(observer), StopRequest())
        found[name] = (observer, progress, store)
    return found


def test_both_runtimes_tell_the_same(runs: dict[str, tuple[Recording, StreamProgress, Path]]) -> None:
    (inline, at_end, _), (ray, ray_end, _) = runs["inline"], runs["ray"]
    assert [row[:-1] for row in inline.seen()] == [row[:-1] for row in ray.seen()] != []
    # How many threads add up decides the last digits.
    assert [row[-1] for row in inline.seen()] == pytest.approx([row[-1] for row in ray.seen()], abs=1e-3)
    assert inline.gaps == ray.gaps != []
    assert at_end == ray_end
    assert len(inline.latencies) == len(ray.latencies) == at_end.keyframes > 0


@pytest.mark.parametrize("runtime", ["inline", "ray"])
def test_what_was_told_is_what_is_stored(
    runs: dict[str, tuple[Recording, StreamProgress, Path]], runtime: str
) -> None:
    told, progress, path = runs[runtime]
    with CaptionStore.open(path) as store:
        rows = store.captions(columns=["track", "t_start", "t_end", "text"]).to_pylist()
        gaps = store.gaps().to_pylist()
    assert sorted((e.track, e.start_ns, e.end_ns, e.text) for e in told.events.values()) == sorted(
        (row["track"], row["t_start"].value, row["t_end"].value, row["text"]) for row in rows
    )
    assert [(g.start_ns, g.end_ns, g.reason) for _, g in told.gaps] == [
        (row["t_start"].value, row["t_end"].value, row["reason"]) for row in gaps
    ]
    assert told.last == {"clip": progress}
    assert progress.finished
    assert set(told.told.values()) == {1}
    assert all(event.durable_ns > event.end_ns for event in told.events.values())
    assert {"clip": True} in told.up
    assert told.up[-1] == {"clip": False}
    assert min(told.latencies) >= 0
    assert told.rounds > 1
    assert told.sizes
    assert min(told.sizes.values()) > 1 << 20
