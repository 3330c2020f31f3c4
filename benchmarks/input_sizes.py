"""What the first look at a picture finds, by the size of the model's input.

    python benchmarks/input_sizes.py THINGS.json --clips DIR [--clips DIR ...] [--sizes 256,320,384,448] [--points 144]

THINGS.json: annotated moments of clips, as for `sca evaluate`. Each picture is looked at as the first keyframe of a scene is,
once as a whole and once with all its windows. Columns: share of the things that one of the regions fits (box IoU of .4 or more), of all and by
size; regions a picture; processor milliseconds of a picture, of which the encoder's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import av
import numpy as np

import sca
from engines.acceleration import accelerate
from pipeline.core import stage_times
from pipeline.core.frame import Frame, FrameTime
from pipeline.core.regions import Expected
from pipeline.core.stage_times import TimedStage
from pipeline.evaluation.annotations import AnnotatedFrame, read_annotations
from pipeline.evaluation.naming import JudgedFrame, SaidRegion, judge_frame, tally
from pipeline.evaluation.things_named import SIZES, find_clips
from pipeline.perception.perceiver import Perception
from pipeline.perception.probing import PerceptionOptions, ProbeOptions


def pictures(film: Path, moments: list[float]) -> dict[float, np.ndarray]:
    """The frame (H, W, 3) uint8 of `film` that is nearest to each of the moments, in seconds."""
    nearest: dict[float, tuple[float, np.ndarray]] = {}
    with av.open(str(film)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            at = float(frame.pts * frame.time_base)
            for moment in moments:
                if moment not in nearest or abs(nearest[moment][0] - moment) > abs(at - moment):
                    nearest[moment] = (at, frame.to_ndarray(format="rgb24"))
    return {moment: rgb for moment, (_, rgb) in nearest.items()}


def resized(model: Path, size: int, copy: Path) -> Path:
    """A copy of a model whose input has another side; its weights are convolutions' and do not mind."""
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    config["model"]["image_size"] = size
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def looked_at(perception: Perception, rgb: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) xyxy of what the first look at a picture finds."""
    nobody = Expected((), np.zeros((0, 4), np.float32))
    frame = Frame("picture", 0, FrameTime(0, 0), rgb)
    return perception.look(frame, nobody, perception.new_view()).boxes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("things", type=Path)
    parser.add_argument("--clips", type=Path, action="append", default=[])
    parser.add_argument("--sizes", default="256,320,384,448")
    parser.add_argument("--points", type=int, default=144, help="of the whole picture and of each window")
    parser.add_argument(
        "--model", default="sca/shipped/demo", help="a folder as `sca.save_shipped` writes it"
    )
    args = parser.parse_args()
    frames = read_annotations(args.things)
    by_clip: defaultdict[str, list[AnnotatedFrame]] = defaultdict(list)
    for frame in frames:
        by_clip[frame.clip].append(frame)
    seen = [
        (frame, rgb[frame.t_s])
        for clip, film in find_clips(frames, args.clips).items()
        for rgb in [pictures(film, [frame.t_s for frame in by_clip[clip]])]
        for frame in by_clip[clip]
    ]
    print("| input | looked at | " + " | ".join(SIZES) + " | regions | ms | encoder |")
    print("| --- " * (5 + len(SIZES)) + "|")
    for size in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            model = accelerate(sca.load(resized(Path(args.model), size, Path(folder) / "model")))
        for views, name in ((0, "whole"), (4, "and 4 windows")):
            options = PerceptionOptions(
                views=views,
                closer=0,
                max_regions=128,
                probing=ProbeOptions(grid=12, first_budget=args.points),
            )
            perception = Perception(model, options)
            looked_at(perception, seen[0][1])
            with tempfile.TemporaryDirectory() as folder:
                stage_times.begin(Path(folder))
                begun = time.process_time()
                judged = [judge_frame(frame, found_in(looked_at(perception, rgb))) for frame, rgb in seen]
                spent = 1000 * (time.process_time() - begun) / len(seen)
                stages = stage_times.read_times(Path(folder)).stages
                stage_times.end()
            encoder = stages[TimedStage.ENCODE].cpu_ns / 1e6 / len(seen)
            print(f"| {size} | {name} | {cells(judged)} | {spent:.0f} | {encoder:.0f} |", flush=True)


def found_in(boxes: np.ndarray) -> list[SaidRegion]:
    """Regions that nobody has named."""
    return [SaidRegion(row, tuple(box), "", 0.0) for row, box in enumerate(boxes.tolist())]


def cells(judged: list[JudgedFrame]) -> str:
    """The found shares by size, and the regions a picture."""
    shares = " | ".join(f"{tally(judged, 'strict', of=of).found_share:.0%}" for of in SIZES.values())
    return f"{shares} | {sum(len(one.regions) for one in judged) / len(judged):.0f}"


if __name__ == "__main__":
    main()
