"""The whole evaluation of a model on the data folder, as one table."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch

import sca
from sca.automatic import AutomaticMaskGenerator
from sca.data.annotations import described_images
from sca.evaluation.captions import (
    CaptionRow,
    PaperMetrics,
    RegionCaption,
    calibration_error,
    caption_regions,
    frequent_mistakes,
    paper_metrics,
    score_captions,
    upright,
)
from sca.evaluation.clips import ClipResult, evaluate_clip, read_clips
from sca.evaluation.mistake_sheet import write_mistakes
from sca.evaluation.proposals import recall_of_boxes
from sca.predictor import Predictor

# Wall-clock cost of the stages of a predictor on this machine.


@dataclass(frozen=True)
class Speed:
    """Medians in milliseconds on `threads` threads of the device: one image; one region's mask; one caption, of a
    batch of 16 regions."""

    encode_ms: float
    region_ms: float
    caption_ms: float
    threads: int


def measure_speed(predictor: Predictor, rgb: np.ndarray, repeats: int = 5, regions: int = 16) -> Speed:
    """Time `predictor` on one picture, uint8 (H, W, 3), and `regions` boxes in it."""
    height, width = rgb.shape[:2]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, size=(regions, 2))
    boxes = np.concatenate([corners, corners + 0.4], axis=1) * [width, height, width, height]
    encoding = predictor.encode(rgb)
    segmentation = predictor.segment(encoding, boxes=boxes)
    features = predictor.region_features(encoding, segmentation)
    return Speed(
        encode_ms=_median_ms(lambda: predictor.encode(rgb), repeats),
        region_ms=_median_ms(lambda: predictor.segment(encoding, boxes=boxes), repeats) / regions,
        caption_ms=_median_ms(
            lambda: predictor.caption(predictor.region_features(encoding, segmentation)), repeats
        )
        / len(features),
        threads=torch.get_num_threads(),
    )


def _median_ms(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]) * 1e3)


_HIDDEN_BELOW = 0.3  # captions with a lower score are not shown by the pipeline


@dataclass(frozen=True)
class EvaluationReport:
    """Everything that `sca evaluate` measures; `text()` prints it."""

    model: str
    captions: tuple[CaptionRow, ...]
    paper: PaperMetrics
    calibration_error: float
    mistakes: tuple[tuple[str, str, int], ...]
    clips: tuple[ClipResult, ...]
    recall: float
    regions_per_image: float
    recall_images: int
    speed: Speed
    load_s: float
    peak_memory_mb: float

    @property
    def box_iou(self) -> float:
        return float(np.mean([clip.box_iou for clip in self.clips])) if self.clips else float("nan")

    @property
    def click_iou(self) -> float:
        return float(np.mean([clip.click_iou for clip in self.clips])) if self.clips else float("nan")

    def text(self) -> str:
        """The tables in Markdown."""
        lines = [
            f"Model {self.model}, {date.today().isoformat()}, {_machine()}",
            "",
            "| regions (single box, true boxes, greedy) | n | CIDEr | exact | head | content |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row.name} | {row.count} | {row.cider:.3f} | {row.exact:.3f} | {row.head:.3f} | {row.content:.3f} |"
            for row in self.captions
        ]
        lines += [
            "",
            f"CIDEr is coco-caption's (CIDEr-D) over whitespace tokens. {self.paper.text()}",
            f"Calibration error of the caption score: {self.calibration_error:.3f}",
            "",
            "| clip | object | IoU from box | IoU from click | commonest caption | score | frames that name it |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {c.clip} | {c.category} | {c.box_iou:.3f} | {c.click_iou:.3f} | {c.caption} | {c.score:.2f} | "
            f"{c.named_share:.0%} |"
            for c in self.clips
        ]
        named = sum(clip.named for clip in self.clips)
        hidden = sum(not clip.named and clip.score < _HIDDEN_BELOW for clip in self.clips)
        lines += [
            f"| mean | | {self.box_iou:.3f} | {self.click_iou:.3f} | | | |",
            "",
            f"Named: {named} of {len(self.clips)}; wrong but hidden (score below {_HIDDEN_BELOW}): {hidden}",
            f"Proposals: recall at 64 regions, IoU 0.5: {self.recall:.3f} "
            f"({self.recall_images} images, {self.regions_per_image:.1f} regions each)",
            f"Speed on {self.speed.threads} threads: image {self.speed.encode_ms:.0f} ms, mask of a region "
            f"{self.speed.region_ms:.1f} ms, caption {self.speed.caption_ms:.1f} ms (batches of 16)",
            f"Loading {self.load_s:.1f} s; peak memory of the process {self.peak_memory_mb:.0f} MB",
            "",
            "Commonest wrong heads (said, wanted): "
            + ", ".join(f"{said} for {wanted} ({count})" for said, wanted, count in self.mistakes),
        ]
        return "\n".join(lines)


def evaluate_model(
    data_dir: Path,
    model: str = "demo",
    *,
    images: int | None = None,
    recall_images: int = 60,
    mistakes: Path | None = None,
    reader: str = "jsonl",
    progress: Callable[[str], None] = lambda _: None,
) -> EvaluationReport:
    """Measure `model` (a name or path) on the validation split and the clips of `data_dir`.

    images: only so many validation images for captions; recall_images: for proposals, which are slow; mistakes: a
    picture file to write the commonest ones to; reader: how the folder is read (see `sca.data.annotations.READERS`).
    """
    annotated = described_images(reader, data_dir, "val")
    start = time.perf_counter()
    predictor = sca.load(model)
    load_s = time.perf_counter() - start
    progress("captions of annotated boxes")
    captions = list(caption_regions(predictor, annotated[:images]))
    if mistakes is not None:
        write_mistakes(captions, annotated, mistakes)
    progress("clips")
    # Other kinds of data folders need not hold clips.
    has_clips = reader == "jsonl" or (Path(data_dir) / "tracks.jsonl.gz").exists()
    clips = [evaluate_clip(predictor, *clip) for clip in read_clips(data_dir)] if has_clips else []
    progress("proposals")
    recall, regions = recall_of_boxes(AutomaticMaskGenerator(predictor), annotated[:recall_images])
    progress("speed")
    speed = measure_speed(predictor, upright(annotated[0])[0])
    return _report(model, captions, clips, (recall, regions, recall_images), speed, load_s)


def _report(
    model: str,
    captions: Sequence[RegionCaption],
    clips: Sequence[ClipResult],
    proposals: tuple[float, float, int],
    speed: Speed,
    load_s: float,
) -> EvaluationReport:
    recall, regions, count = proposals
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return EvaluationReport(
        model=model,
        captions=tuple(score_captions(captions)),
        paper=paper_metrics(captions),
        calibration_error=calibration_error(captions),
        mistakes=tuple(frequent_mistakes(captions)),
        clips=tuple(clips),
        recall=recall,
        regions_per_image=regions,
        recall_images=count,
        speed=speed,
        load_s=load_s,
        peak_memory_mb=peak,
    )


def caption_predictor(
    predictor: Predictor, data_dir: Path, images: int | None = None, reader: str = "jsonl"
) -> list[RegionCaption]:
    """Captions of the validation regions, for calibration and for looking at."""
    return list(caption_regions(predictor, described_images(reader, data_dir, "val")[:images]))


def _machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, Python {platform.python_version()}"
