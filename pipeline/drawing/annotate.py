"""A video with the stored regions and captions drawn in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from pipeline.core.clock import NS
from pipeline.core.errors import UserError
from pipeline.core.output_files import output_by_name
from pipeline.drawing.drawing import DisplayOptions, Label, draw_labels
from pipeline.sources import DecodedFrame, Source
from pipeline.store import CaptionStore

_TIME_BASE = Fraction(1, 90_000)
_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
ANNOTATED_SUFFIXES = frozenset(_FORMATS)
_REPEATED = 0.6  # share of the smaller box: above it, the same words mean the same thing


@dataclass(frozen=True, slots=True)
class TrackPath:
    """Where a track was: `seen_ns` (n,) increasing, `boxes` (n, 4) xyxy pixels; and its captions.

    `starts_ns`, `ends_ns`, `texts`, `scores`: its caption events, by start. Times in ns from the stream's start, over
    all epochs.
    """

    track: int
    seen_ns: np.ndarray
    boxes: np.ndarray
    starts_ns: np.ndarray
    ends_ns: np.ndarray
    texts: tuple[str, ...]
    scores: np.ndarray

    def box_at(self, at_ns: int, max_gap_ns: int) -> np.ndarray | None:
        """The box at `at_ns`, (4,), between its two nearest observations; None where the track was not seen."""
        after = int(np.searchsorted(self.seen_ns, at_ns))
        if after < len(self.seen_ns) and self.seen_ns[after] == at_ns:
            return np.asarray(self.boxes[after])
        if after == 0 or after == len(self.seen_ns):
            return None
        before_ns, after_ns = int(self.seen_ns[after - 1]), int(self.seen_ns[after])
        if after_ns - before_ns > max_gap_ns:
            return None
        share = (at_ns - before_ns) / (after_ns - before_ns)
        return np.asarray(self.boxes[after - 1] * (1 - share) + self.boxes[after] * share)

    def caption_at(self, at_ns: int) -> tuple[str, float]:
        """The text of the event that runs at `at_ns` (else of the last one before) and its score."""
        index = int(np.searchsorted(self.starts_ns, at_ns, side="right")) - 1
        return (self.texts[index], float(self.scores[index])) if index >= 0 else ("", 0.0)


def track_paths(store: CaptionStore, stream: str) -> list[TrackPath]:
    """All tracks of a stream with their observations and captions."""
    # Not by PTS: they start at 0 again after a reset.
    start_ns = store.streams()[stream].start_wall_ns
    seen = _since(start_ns, store.observations(stream=stream), "t").to_pandas()
    told = _since(start_ns, store.captions(stream=stream), "t_start", "t_end").to_pandas()
    paths = []
    events = dict(tuple(told.groupby("track")))
    for track, rows in seen.groupby("track"):
        rows = rows.drop_duplicates("t").sort_values("t")
        own = events.get(track, told.iloc[:0]).sort_values("t_start")
        paths.append(
            TrackPath(
                track=int(track),
                seen_ns=rows["t"].to_numpy(),
                boxes=rows[["x0", "y0", "x1", "y1"]].to_numpy(np.float64),
                starts_ns=own["t_start"].to_numpy(),
                ends_ns=own["t_end"].to_numpy(),
                texts=tuple(own["text"].astype(str)),
                scores=own["score"].to_numpy(np.float64),
            )
        )
    return paths


def labels_at(paths: list[TrackPath], at_ns: int, max_gap_ns: int, display: DisplayOptions) -> list[Label]:
    """What to draw at `at_ns`, the surest captions first.

    Left out: captions below `display.min_score`, and those that an overlapping, surer one says already.
    """
    labels = []
    for path in paths:
        box = path.box_at(at_ns, max_gap_ns)
        text, score = path.caption_at(at_ns)
        if box is not None and text and score >= display.min_score:
            labels.append(Label(path.track, tuple(float(v) for v in box), text, score))
    kept = without_repeats(sorted(labels, key=lambda label: -label.score))
    return [replace(label, text=display.words(label.text, label.score)) for label in kept]


def without_repeats(labels: list[Label]) -> list[Label]:
    """Drop every label that says the same as an earlier one, over mostly the same place."""
    kept: list[Label] = []
    for label in labels:
        if not any(label.text == other.text and _shared(label.box, other.box) > _REPEATED for other in kept):
            kept.append(label)
    return kept


def _shared(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Overlap of two boxes as a share of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0.0) * max(height, 0.0) / max(smaller, 1e-9)


def write_annotated(
    source: Source,
    paths: list[TrackPath],
    output: Path,
    *,
    max_gap_s: float,
    display: DisplayOptions,
    on_frame: Callable[[int], None] = lambda at_ns: None,
) -> int:
    """Draw `paths` into the frames of `source` and write H.264 with the same times. Returns the frame count.

    After a PTS reset, time stamps go on where they were. Boxes are interpolated between keyframes that lie at most
    `max_gap_s` apart. `on_frame` hears of each frame's time, ns from the start. Raises `UserError` when `output`
    cannot be written.
    """
    # H.264 knows even sizes only: an odd picture gets its last row or column twice.
    width, height = (size + size % 2 for size in (source.info.width, source.info.height))
    written = 0
    last_ticks = -1
    try:
        with (
            output_by_name(output) as (name, seekable),
            av.open(
                str(name),
                "w",
                format=_FORMATS[output.suffix.lower()],
                options={"movflags": "+faststart" if seekable else "+frag_keyframe+empty_moov"},
            ) as container,
        ):
            stream = container.add_stream(
                "libx264", rate=Fraction(source.info.nominal_fps or 25).limit_denominator(1001)
            )
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = stream.codec_context.time_base = _TIME_BASE
            stream.codec_context.options = {"preset": "veryfast", "crf": "23"}
            for item in source:
                if not isinstance(item, DecodedFrame):
                    continue
                at_ns = item.time.wall_ns - source.info.start_wall_ns
                labels = labels_at(paths, at_ns, round(max_gap_s * NS), display)
                # A copy: the source may keep its own pixels.
                picture = item.to_frame().rgb.copy()
                draw_labels(picture, labels)
                picture = np.pad(
                    picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), "edge"
                )
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                ticks = max(last_ticks + 1, at_ns * 90_000 // NS)
                frame.pts, frame.time_base = ticks, _TIME_BASE
                last_ticks = ticks
                container.mux(stream.encode(frame))
                written += 1
                on_frame(at_ns)
            container.mux(stream.encode(None))
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or error}); choose another place"
        ) from None
    return written


def _since(start_ns: int, table: pa.Table, *columns: str) -> pa.Table:
    """`table` with its wall-clock `columns` as ns from `start_ns`."""
    for name in columns:
        times = table[name].cast(pa.int64()).to_numpy() - start_ns
        table = table.set_column(table.column_names.index(name), name, pa.array(times))
    return table
