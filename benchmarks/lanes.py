"""Views of a keyframe one after the other on all cores, or side by side, one on each: the time and the processors' time of both.

    python benchmarks/lanes.py [CLIP] [--views 5] [--repeats 15]

The compiled stages of the shipped model, on parts of three photographs: encoding, the captions' maps, sixteen boxes in each view,
and their descriptions. With a CLIP everything again while a thread decodes it, as in a run: whoever shares a layer out over all
cores then waits for the one that decodes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.side_by_side import describe_machine
from engines.preparation import EngineRequest, open_compiled, prepare
from sca.compiled.predictor import CompiledPredictor
from sca.regions import ImageEncoding

PICTURES = sorted((Path(__file__).parents[1] / "engines" / "reference_frames").glob("*.jpg"))
BOXES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clip", nargs="?")
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    asked = parser.parse_args()
    prepared = prepare(EngineRequest("demo", "cpu", "openvino"), lambda line: None)
    threads = os.cpu_count() or 1
    models = {
        "one after the other": open_compiled(prepared, "vision", threads, most_lanes=1),
        "side by side": open_compiled(prepared, "vision", threads),
    }
    pictures = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in PICTURES]
    views = list(itertools.islice(itertools.cycle(pictures), asked.views))
    print(f"{describe_machine()}; {asked.views} views, {BOXES} boxes in each, medians of {asked.repeats}\n")
    print(f"  {'':22} {'ms':>8} {'processors ms':>14}")
    for beside in [None] if asked.clip is None else [None, asked.clip]:
        stop = threading.Event()
        if beside is not None:
            print(f"\n  while {Path(beside).name} is decoded (whose own time is in the processors')")
            threading.Thread(target=decode, args=(beside, stop), daemon=True).start()
        works: dict[str, Callable[[], object]] = {}
        for name, model in models.items():
            assert model is not None
            works[name] = lambda model=model: looked(model, views)
        taken = in_turn(works, asked.repeats)
        stop.set()
        for name, (wall, cpu) in taken.items():
            print(f"  {name:22} {wall * 1e3:8.0f} {cpu * 1e3:14.0f}")
        (old, old_cpu), (new, new_cpu) = taken.values()
        print(f"  {'ratio':22} {old / new:8.2f} {old_cpu / new_cpu:14.2f}")


def looked(model: CompiledPredictor, views: list[np.ndarray]) -> None:
    """What perception asks of a model for some views of a keyframe."""

    def described(encoding: ImageEncoding) -> None:
        height, width = encoding.original_size
        corners = np.random.default_rng(7).uniform(0, 0.6, (BOXES, 2)) * (width, height)
        boxes = np.concatenate([corners, corners + np.array([width, height]) * 0.3], axis=1)
        assert encoding.captions is not None
        encoding.captions.map()
        model.region_features(encoding, model.segment(encoding, boxes=boxes))

    model.lanes.map(described, model.encode_batch(views))


def in_turn(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds, and seconds of all processors, of each work; one round of all after another."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if number:  # the first makes the engines ready
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(np.median(rows, axis=0)) for name, rows in taken.items()}


def decode(clip: str, stop: threading.Event) -> None:
    """Decode the clip again and again."""
    while not stop.is_set():
        with av.open(clip) as container:
            for frame in container.decode(video=0):
                frame.to_ndarray(format="rgb24")
                if stop.is_set():
                    return


if __name__ == "__main__":
    main()
