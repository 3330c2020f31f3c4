"""How well tracks follow the annotated object of DAVIS sequences.

    python benchmarks/tracking_davis.py TRACKS.jsonl.gz [--preset default] [--set key=value ...] [--model demo]

TRACKS.jsonl.gz: one JSON object a video: `id`, `file` (relative to it), `tracks[0].frames` with frame number `f`, box
`b` (xyxy) and COCO run lengths `rle`, and the picture size `w`, `h`. One object is annotated a sequence, and we track
everything, so tracks elsewhere are not counted as wrong: in each frame only the track that fits the object best counts.

Columns: `cover` share of all frames in which one and the same track covers the object best (box IoU >= 0.5, boxes
interpolated between keyframes); `same` the share in which one track covers it, even where another fits better; `any` the
same, whichever track; `mask` mean mask IoU of the best track in keyframes;
`switch` changes of the covering track; `IDF1`, `AssA` by trackeval; `s/kf` seconds a keyframe.

The last row is ByteTrack of the package `trackers` (pip install trackers) on the same regions.

One object a sequence is little: which frames happen to be keyframes moves the means by .1. `--starts 3` runs each sequence
from its first, fifth and ninth frame.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco
from supervision import Detections
from trackers import ByteTrackTracker
from trackeval.metrics import HOTA, Identity

from pipeline.core.clock import NS
from pipeline.core.masks import RleMask, decode_mask
from pipeline.core.records import Gap
from pipeline.core.regions import Regions, box_iou
from pipeline.drawing.annotate import TrackPath
from pipeline.keyframes.reader import KeyframeReader
from pipeline.perception.perceiver import Perception
from pipeline.runtime.model_loading import inline_threads, load_predictor
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.settings.config import RunConfig, load_config
from pipeline.sources import DecodedFrame, Source, open_source
from sca.predictor import Predictor

COVERED = 0.5
STARTS_APART = 4


@dataclass(frozen=True)
class Score:
    """Results of one sequence; see the module's text."""

    name: str
    cover: float
    same: float
    any_track: float
    mask: float
    switches: int
    idf1: float
    assa: float
    tracks: int
    seconds: float


def follow(
    video: Path, config: RunConfig, predictor: Predictor, skip: int = 0
) -> tuple[list[TrackPath], list[TrackPath], dict[int, list[Any]], float]:
    """Track a video: paths of our tracks and of the library's, the masks of each keyframe by frame number, seconds a keyframe."""
    source = _Later(open_source(str(video), start_ns=0), skip)
    reader = KeyframeReader(source, config.keyframes)
    analysis = StreamAnalysis("s", Perception(predictor, config.perception), config.tracking, config.captions)
    library = _Library()
    seen: dict[int, list[tuple[int, np.ndarray]]] = {}
    theirs: dict[int, list[tuple[int, np.ndarray]]] = {}
    elapsed = 0.0
    masks: dict[int, list[Any]] = {}
    keyframes = 0
    while True:
        begun = time.perf_counter()
        step, frame = reader.step()
        if step.ended:
            break
        if frame is None:
            continue
        keyframes += 1
        regions = analysis.keyframe(frame)[0].regions
        elapsed += time.perf_counter() - begun
        for row, track in library.numbers(regions):
            theirs.setdefault(track, []).append((frame.time.pts_ns, regions.boxes[row]))
        for row, track in enumerate(regions.track_ids.tolist()):
            if track >= 0:
                seen.setdefault(track, []).append((frame.time.pts_ns, regions.boxes[row]))
        masks[frame.index] = [
            (int(track), _full_size(mask, (frame.height, frame.width)))
            for track, mask in zip(regions.track_ids, regions.masks, strict=True)
            if track >= 0 and mask is not None
        ]
    source.close()
    return _paths(seen), _paths(theirs), masks, elapsed / max(keyframes, 1)


def _full_size(mask: RleMask, size: tuple[int, int]) -> dict[str, Any]:
    """A mask on its grid as COCO run lengths of the picture."""
    pixels = cv2.resize(decode_mask(mask).astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    return dict(coco.encode(np.asfortranarray(pixels)))


def _paths(seen: dict[int, list[tuple[int, np.ndarray]]]) -> list[TrackPath]:
    nothing = np.zeros(0)
    return [
        TrackPath(
            track,
            np.array([at for at, _ in rows]),
            np.array([box for _, box in rows], np.float64),
            nothing,
            nothing,
            (),
            nothing,
        )
        for track, rows in seen.items()
    ]


class _Library:
    """ByteTrack of the package `trackers` on the regions of our keyframes: the same detections, another association.

    Those are found with the help of our own tracks' prompts, which flatters it.
    """

    def __init__(self) -> None:
        # Scores of our masks lie lower than those that its defaults are made for; it forgets after as many keyframes as we do.
        self._tracker = ByteTrackTracker(
            lost_track_buffer=64,
            track_activation_threshold=0.3,
            high_conf_det_threshold=0.5,
            minimum_consecutive_frames=1,
        )

    def numbers(self, regions: Regions) -> list[tuple[int, int]]:
        """(row, track) of each region that has a track."""
        detections = Detections(
            regions.boxes.astype(np.float32),
            confidence=regions.scores.astype(np.float32),
            data={"row": np.arange(len(regions))},
        )
        found = self._tracker.update(detections)
        if found.tracker_id is None:
            return []
        pairs = zip(found.data["row"].tolist(), found.tracker_id.tolist(), strict=True)
        return [(int(row), int(track)) for row, track in pairs if track >= 0]


class _Later:
    """A source without its first frames, so that other frames become keyframes."""

    def __init__(self, source: Source, skip: int) -> None:
        self._source, self._skip = source, skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __iter__(self) -> Iterator[DecodedFrame | Gap | None]:
        return islice(iter(self._source), self._skip, None)


def score(
    video: dict[str, Any], root: Path, config: RunConfig, predictor: Predictor, skip: int = 0
) -> tuple[Score, Score]:
    """Track one sequence from frame `skip` on and compare it with its annotation: we, and the library."""
    ours, theirs, masks, seconds = follow(root / video["file"], config, predictor, skip)
    truth = {row["f"]: row for row in video["tracks"][0]["frames"] if row["f"] >= skip}
    max_gap_ns = round(config.keyframes.max_interval_s * 1.5e9)
    return (
        _compare(video, truth, ours, masks, max_gap_ns, seconds),
        _compare(video, truth, theirs, masks, max_gap_ns, seconds),
    )


def _compare(
    video: dict[str, Any],
    truth: dict[int, Any],
    paths: list[TrackPath],
    masks: dict[int, list[Any]],
    max_gap_ns: int,
    seconds: float,
) -> Score:
    best: list[int] = []
    covering: Counter[int] = Counter()
    similarities: list[np.ndarray] = []
    for number, row in sorted(truth.items()):
        at = number * NS // video["fps"]
        boxes = [(path.track, box) for path in paths if (box := path.box_at(at, max_gap_ns)) is not None]
        overlap = (
            box_iou(np.array([row["b"]], float), np.array([box for _, box in boxes]))[0]
            if boxes
            else np.zeros(0)
        )
        covering.update(track for (track, _), iou in zip(boxes, overlap, strict=True) if iou >= COVERED)
        hit = int(overlap.argmax()) if len(overlap) and overlap.max() >= COVERED else -1
        best.append(boxes[hit][0] if hit >= 0 else -1)
        similarities.append(overlap[hit : hit + 1] if hit >= 0 else np.zeros(0))
    size = [video["h"], video["w"]]
    mask_iou = []
    for number, found in masks.items():
        if number in truth:
            reference = [{"size": size, "counts": truth[number]["rle"].encode()}]
            ious = coco.iou([mask for _, mask in found], reference, [0]) if found else np.zeros((1, 1))
            mask_iou.append(float(np.max(ious)))
    hits = [track for track in best if track >= 0]
    most = Counter(hits).most_common(1)
    identity, association = identity_scores(best, similarities)
    return Score(
        video["id"].rpartition("/")[2],
        most[0][1] / len(best) if most else 0.0,
        max(covering.values(), default=0) / len(best),
        len(hits) / len(best),
        float(np.mean(mask_iou)) if mask_iou else 0.0,
        sum(a != b for a, b in pairwise(hits)),
        identity,
        association,
        len(paths),
        seconds,
    )


def identity_scores(best: list[int], similarities: list[np.ndarray]) -> tuple[float, float]:
    """IDF1 and mean AssA of one object against the track that covers it in each frame."""
    numbers = {track: index for index, track in enumerate(sorted({track for track in best if track >= 0}))}
    data = {
        "num_timesteps": len(best),
        "num_gt_ids": 1,
        "num_tracker_ids": len(numbers),
        "num_gt_dets": len(best),
        "num_tracker_dets": sum(track >= 0 for track in best),
        "gt_ids": [np.zeros(1, int) for _ in best],
        "tracker_ids": [np.array([numbers[track]] if track >= 0 else [], int) for track in best],
        "similarity_scores": [s.reshape(1, -1) for s in similarities],
    }
    identity = Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    return float(identity.get("IDF1", 0.0)), float(np.mean(HOTA().eval_sequence(data)["AssA"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tracks", type=Path)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", help="one sequence")
    parser.add_argument("--starts", type=int, default=1, help="run each sequence from so many first frames")
    args = parser.parse_args()
    config = load_config(args.preset, args.settings, changes={"model": args.model})
    predictor = load_predictor(config, inline_threads(config))
    print(f"{'sequence':20} cover  same   any  mask switch  IDF1  AssA tracks  s/kf")
    scores: list[tuple[Score, Score]] = []
    with gzip.open(args.tracks, "rt") as lines:
        for line in lines:
            video = json.loads(line)
            if args.only and args.only not in video["id"]:
                continue
            for start in range(args.starts):
                skip = start * STARTS_APART
                scores.append(score(video, args.tracks.parent, config, predictor, skip))
                print_row(scores[-1][0])
    print_means("mean / sum", [ours for ours, _ in scores])
    print_means("trackers, ByteTrack", [theirs for _, theirs in scores])


def print_means(name: str, scores: list[Score]) -> None:
    means = [
        float(np.mean([getattr(s, f) for s in scores]))
        for f in ("cover", "same", "any_track", "mask", "idf1", "assa", "seconds")
    ]
    tracks = sum(s.tracks for s in scores)
    switches = sum(s.switches for s in scores)
    print_row(Score(name, *means[:4], switches, *means[4:6], tracks, means[6]))


def print_row(s: Score) -> None:
    print(
        f"{s.name:20} {s.cover:5.2f} {s.same:5.2f} {s.any_track:5.2f} {s.mask:5.2f} {s.switches:6d} {s.idf1:5.2f} {s.assa:5.2f} "
        f"{s.tracks:6d} {s.seconds:5.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
