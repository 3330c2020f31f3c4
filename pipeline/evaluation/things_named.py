"""Things named: of what a person would name in some clips, how much does the program name, and is what it shows right?"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.core.clock import NS
from pipeline.drawing.annotate import Label, PlacedOutlines, TrackPath, track_paths, without_repeats
from pipeline.drawing.drawing import DisplayOptions
from pipeline.evaluation.annotations import AnnotatedFrame, Thing, find_clips, frames_of, read_annotations
from pipeline.evaluation.chota import chota, moments_of
from pipeline.evaluation.naming import JudgedFrame, Reading, SaidRegion, Tally, judge_frame, tally
from pipeline.runtime.inline import run_inline
from pipeline.runtime.model_loading import inline_threads, load_predictor
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import RunObserver, StopRequest
from pipeline.settings.config import RunConfig
from pipeline.store import CaptionStore

# A keyframe further away from the annotated moment than this shows another picture.
_NEAREST_S = 0.6
# As old a mask says how a track looks that has none at the moment: as an annotated video of the default settings has it.
_MASK_AGE_S = 3.0
SIZES: dict[str, Callable[[Thing], bool]] = {
    "all": lambda thing: True,
    "> 5 % of the picture": lambda thing: thing.share > 0.05,
    "1 to 5 %": lambda thing: 0.01 <= thing.share <= 0.05,
    "< 1 %": lambda thing: thing.share < 0.01,
}


@dataclass(frozen=True, slots=True)
class ClipRun:
    """How long a clip's run took, opening and recording included: its seconds of film, and of wall clock."""

    clip: str
    film_s: float
    wall_s: float
    keyframes: int


@dataclass(frozen=True, slots=True)
class ThingsReport:
    """What was named on the clips of an annotation file. `min_score`: what the run's display shows from."""

    frames: tuple[JudgedFrame, ...]
    runs: tuple[ClipRun, ...]
    min_score: float

    def shown(self, reading: Reading, of: Callable[[Thing], bool] = SIZES["all"]) -> Tally:
        """Of what is shown by default."""
        return tally(self.frames, reading, min_score=self.min_score, repeats=False, of=of)

    def stored(self, reading: Reading, of: Callable[[Thing], bool] = SIZES["all"]) -> Tally:
        """Of everything that is stored."""
        return tally(self.frames, reading, of=of)

    def text(self) -> str:
        """Tables in Markdown."""
        count = sum(len(judged.frame.things) for judged in self.frames)
        regions = sum(len(judged.regions) for judged in self.frames)
        lines = [
            f"{len(self.frames)} pictures of {len(self.runs)} clips, {count} things, "
            f"{regions / max(len(self.frames), 1):.1f} regions a picture",
            "",
            "| things | n | found as a region | named, strict | loose | all stored: named, strict | loose |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, of in SIZES.items():
            strict, loose = self.shown("strict", of), self.shown("loose", of)
            every, wide = self.stored("strict", of), self.stored("loose", of)
            lines.append(
                f"| {name} | {strict.things} | {_percent(every.found_share)} | {_percent(strict.recall)} | "
                f"{_percent(loose.recall)} | {_percent(every.recall)} | {_percent(wide.recall)} |"
            )
        lines += ["", "| captions | judged | right, strict | right, loose |", "| --- | --- | --- | --- |"]
        for name, strict, loose in (
            (f"shown (score {self.min_score:g} or more)", self.shown("strict"), self.shown("loose")),
            ("all stored", self.stored("strict"), self.stored("loose")),
        ):
            lines.append(
                f"| {name} | {strict.judged} / {loose.judged} | {_percent(strict.precision)} | {_percent(loose.precision)} |"
            )
        lines += [
            "",
            "| followed over the pictures of a clip | CHOTA | HOTA | found (DetA) | followed (AssA) | named (CapA) | IDF1 |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for name, moments in (
            ("shown", moments_of(self.frames, min_score=self.min_score, repeats=False)),
            ("all stored", moments_of(self.frames)),
        ):
            way = chota(moments)
            cells = (way.chota, way.hota, way.deta, way.assa, way.capa, way.idf1)
            lines.append(f"| {name} | {' | '.join(map(_percent, cells))} |")
        film, wall = (sum(getattr(run, name) for run in self.runs) for name in ("film_s", "wall_s"))
        if wall:
            keyframes = sum(run.keyframes for run in self.runs)
            lines += [
                "",
                f"{film:.0f} s of film in {wall:.0f} s ({film / wall:.2f} times real time in one process), "
                f"{1000 * wall / max(keyframes, 1):.0f} ms a keyframe",
            ]
        return "\n".join(lines)


def evaluate_things(
    annotations: Path,
    folders: Sequence[Path],
    config: RunConfig,
    *,
    clips: Sequence[str] = (),
    lines: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ThingsReport:
    """Run `config` on the annotated clips and score what it has said at the annotated moments.

    `folders`: where the clips lie. `clips`: only these. `lines`: a folder to write the regions at each moment to, a
    JSON line each. Raises `UserError` for bad annotations and clips that are nowhere.
    """
    frames = read_annotations(annotations)
    frames = frames_of(frames, clips, annotations)
    files = find_clips(frames, folders)
    predictor = load_predictor(config, inline_threads(config))
    judged: list[JudgedFrame] = []
    runs: list[ClipRun] = []
    with tempfile.TemporaryDirectory(prefix="things-") as scratch:
        for number, (clip, path) in enumerate(files.items()):
            progress(clip)
            plan = plan_run([str(path)], config, store=Path(scratch) / f"{number}.zarr")
            begun = time.perf_counter()
            (run,) = run_inline(plan, RunObserver(), StopRequest(), predictor)
            wall_s = time.perf_counter() - begun
            runs.append(ClipRun(clip, run.position_ns / NS, wall_s, run.keyframes))
            with CaptionStore.open(plan.store) as store:
                paths = track_paths(store, plan.streams[0].stream)
            for frame in (frame for frame in frames if frame.clip == clip):
                regions = regions_at(
                    paths, round(frame.t_s * NS), config.display, (frame.height, frame.width)
                )
                judged.append(judge_frame(frame, regions))
                if lines is not None:
                    _write_lines(lines, frame, regions)
    return ThingsReport(tuple(judged), tuple(runs), config.display.min_score)


def regions_at(
    paths: Sequence[TrackPath], at_ns: int, display: DisplayOptions, size: tuple[int, int]
) -> list[SaidRegion]:
    """The regions of the keyframe nearest to `at_ns` as they are stored, and which of them are not shown.

    `size`: (H, W) of the picture.
    """
    seen = np.unique(np.concatenate([path.seen_ns for path in paths])) if paths else np.zeros(0, np.int64)
    if not len(seen):
        return []
    nearest = int(seen[np.abs(seen - at_ns).argmin()])
    if abs(nearest - at_ns) > _NEAREST_S * NS:
        return []
    labels = []
    for path in paths:
        box = path.box_at(nearest, 0)
        if box is not None:
            labels.append(Label(path.track, tuple(float(v) for v in box), *path.caption_at(nearest)))
    sure = [label for label in labels if label.text and label.score >= display.min_score]
    outlines = PlacedOutlines(paths, sure, nearest, round(_MASK_AGE_S * NS), size)
    shown = {label.track for label in without_repeats(sure, outlines)}
    hidden = {label.track for label in sure} - shown
    return [SaidRegion(x.track, x.box, x.text, x.score, x.track in hidden) for x in labels]


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.1%}"


def _write_lines(folder: Path, frame: AnnotatedFrame, regions: Sequence[SaidRegion]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"clip": frame.clip, "at_s": frame.t_s}
    rows = [
        known | {("repeat" if key == "repeated" else key): value for key, value in asdict(region).items()}
        for region in regions
    ] or [known | {"track": None, "box": (0, 0, 0, 0), "text": "", "score": 0.0}]
    with (folder / f"{Path(frame.clip).stem}.jsonl").open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
