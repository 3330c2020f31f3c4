"""The same run on a Ray cluster of two nodes, one of which dies: its stream moves to the other one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest, StreamProgress
from pipeline.settings.config import load_config
from pipeline.store import CaptionStore
from tests.tiny_checkpoint import QUICK
from tests.videos import write_video

STREAMS = ("east", "west")


@pytest.fixture
def cluster(own_ray: None) -> Iterator[Any]:
    """A head node with room for one perception actor and a second node with room for another."""
    for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_worker_niceness", "0")):
        os.environ.setdefault(name, value)
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    cluster.second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class KillsTheNode(RunObserver):
    """Removes the second node once both streams run, and notes when each stream recorded something again."""

    def __init__(self, cluster: Any, store: Path) -> None:
        self._cluster = cluster
        self._store = store
        self._keyframes = dict.fromkeys(STREAMS, 0)
        self.killed_s: float | None = None
        self.moved: set[str] = set()
        self.moved_s: dict[str, float] = {}
        self.before: set[tuple[str, int, int]] = set()

    def progress(self, now: StreamProgress) -> None:
        if self.killed_s is None:
            self._keyframes[now.stream] = now.keyframes
            if min(self._keyframes.values()) >= 12:
                self.before = set(observations(self._store))
                self.killed_s = time.monotonic()
                self._cluster.remove_node(self._cluster.second, allow_graceful=False)
        elif now.stream in self.moved:
            before = self._keyframes.setdefault(now.stream, now.keyframes)
            if now.keyframes > before:
                self.moved_s.setdefault(now.stream, time.monotonic() - self.killed_s)

    def restarted(self, what: str, stream: str) -> None:
        if what == "stream" and self.killed_s is not None:
            self.moved.add(stream)
            self._keyframes.pop(stream, None)


def observations(store: Path) -> list[tuple[str, int, int]]:
    with CaptionStore.open(store) as opened:
        table = opened.observations().to_pandas()
    return list(zip(table["stream"], table["frame"].tolist(), table["track"].tolist(), strict=True))


@pytest.mark.slow
def test_the_streams_of_a_killed_node_move_and_nothing_committed_is_lost(
    cluster: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from pipeline.runtime.on_ray.driver import run_on_ray

    clips = [str(write_video(tmp_path / f"{name}.mp4", frames=320, width=96, height=64)) for name in STREAMS]
    settings = (
        *QUICK,
        "keyframes.interval_s=0.2",
        "keyframes.change=0",
        "recording.commit_s=0.1",
        "restarts.first_delay_s=0.1",
        "runtime.perception_actors=2",
        "runtime.perception_cpus=1",
        f"runtime.address={cluster.address}",
    )
    config = load_config("default", settings, changes={"model": str(tiny_checkpoint)})
    store = tmp_path / "s.zarr"
    watch = KillsTheNode(cluster, store)
    progress = run_on_ray(plan_run(clips, config, store=store), watch, StopRequest())

    assert all(stream.finished for stream in progress)
    # One perception actor a node: the node's death moves exactly one of the streams.
    assert len(watch.moved) == 1
    after = observations(store)
    assert len(set(after)) == len(after)
    assert watch.before
    assert watch.before <= set(after)
    with CaptionStore.open(store) as opened:
        assert {name: opened.resume(name).frame for name in STREAMS} == dict.fromkeys(STREAMS, 319)
        assert opened.gaps().num_rows == 0
    assert set(watch.moved_s) == watch.moved
    assert max(watch.moved_s.values()) < 30
