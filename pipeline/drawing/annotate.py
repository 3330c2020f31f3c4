"""A video with the stored regions and captions drawn in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa

from pipeline.core.clock import NS
from pipeline.core.errors import UserError
from pipeline.core.masks import MaskMalformed, RleMask, run_lengths
from pipeline.core.output_files import output_by_name
from pipeline.core.shown_once import shown_once
from pipeline.drawing.drawing import DisplayOptions, Drawn, Label, draw_labels
from pipeline.drawing.moving_masks import PlacedMask, SeenMask, moved
from pipeline.sources import DecodedFrame, Source
from pipeline.store import CaptionStore
from pipeline.store.row_filter import RowFilter

log = logging.getLogger(__name__)

_TIME_BASE = Fraction(1, 90_000)
_FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
ANNOTATED_SUFFIXES = frozenset(_FORMATS)


@dataclass(frozen=True, slots=True)
class TrackPath:
    """Where a track was: `seen_ns` (n,) increasing, `boxes` (n, 4) xyxy pixels; and its captions.

    `starts_ns`, `ends_ns`, `texts`, `scores`: its caption events, by start. `masks`: of the observations, as far as they are
    known, and `shots` (n,) their shots. Times in ns from the stream's start, over all epochs.
    """

    track: int
    seen_ns: np.ndarray
    boxes: np.ndarray
    starts_ns: np.ndarray
    ends_ns: np.ndarray
    texts: tuple[str, ...]
    scores: np.ndarray
    masks: tuple[RleMask | None, ...] = ()
    shots: np.ndarray | None = None

    def box_at(self, at_ns: int, max_gap_ns: int) -> np.ndarray | None:
        """The box at `at_ns`, (4,), between its two nearest observations; None where the track was not seen."""
        after = int(np.searchsorted(self.seen_ns, at_ns))
        if after < len(self.seen_ns) and self.seen_ns[after] == at_ns:
            return np.asarray(self.boxes[after])
        if after == 0 or after == len(self.seen_ns) or not self._followed(after - 1, after, max_gap_ns):
            return None
        before_ns, after_ns = int(self.seen_ns[after - 1]), int(self.seen_ns[after])
        share = (at_ns - before_ns) / (after_ns - before_ns)
        return np.asarray(self.boxes[after - 1] * (1 - share) + self.boxes[after] * share)

    def masks_at(self, at_ns: int, max_gap_ns: int) -> tuple[SeenMask, ...]:
        """The masks that say how the track looks at `at_ns`: the nearest before and after, weighted by how near they are.

        Only from where the track was followed without a break, and at most `max_gap_ns` away: an older outline is no longer what
        is there. Empty where there is none, or where the track was not seen at `at_ns` at all.
        """
        first = int(np.searchsorted(self.seen_ns, at_ns))
        exact = first < len(self.seen_ns) and self.seen_ns[first] == at_ns
        before = self._masked(range(first if exact else first - 1, -1, -1), at_ns, max_gap_ns)
        after = self._masked(range(first, len(self.seen_ns)), at_ns, max_gap_ns)
        found = sorted({index for index in (before, after) if index is not None})
        if not found or (len(found) > 1 and not self._followed(found[0], found[1], max_gap_ns)):
            return ()
        times = [int(self.seen_ns[index]) for index in found]
        weights = [1.0]
        if len(found) > 1:
            share = (at_ns - times[0]) / (times[1] - times[0])
            weights = [1 - share, share]
        return tuple(
            SeenMask(mask, tuple(float(edge) for edge in self.boxes[index]), weight)
            for index, weight in zip(found, weights, strict=True)
            if (mask := self.masks[index]) is not None
        )

    def _masked(self, indices: range, at_ns: int, max_gap_ns: int) -> int | None:
        """The first of `indices` that has a mask, near enough and before the track was lost."""
        previous: int | None = None
        for index in indices:
            if index >= len(self.masks) or abs(int(self.seen_ns[index]) - at_ns) > max_gap_ns:
                return None
            if previous is not None and not self._followed(
                min(index, previous), max(index, previous), max_gap_ns
            ):
                return None
            if self.masks[index] is not None:
                return index
            previous = index
        return None

    def _followed(self, first: int, last: int, max_gap_ns: int) -> bool:
        """Whether the track was seen from observation `first` to `last` without a long gap and within one shot."""
        if self.shots is not None and self.shots[first] != self.shots[last]:
            return False
        return bool((np.diff(self.seen_ns[first : last + 1]) <= max_gap_ns).all())

    def caption_at(self, at_ns: int) -> tuple[str, float]:
        """The text of the event that runs at `at_ns` (else of the last one before) and its score."""
        index = int(np.searchsorted(self.starts_ns, at_ns, side="right")) - 1
        return (self.texts[index], float(self.scores[index])) if index >= 0 else ("", 0.0)


def track_paths(store: CaptionStore, stream: str, asked: RowFilter | None = None) -> list[TrackPath]:
    """All tracks of a stream with their observations and captions; those that `asked` does not find are empty, and not drawn."""
    # Not by PTS: they start at 0 again after a reset.
    start_ns = store.streams([stream])[stream].start_wall_ns
    seen_columns = ("track", "t", "x0", "y0", "x1", "y1", "shot", "mask")
    told_columns = ("track", "t_start", "t_end", "text", "score", "mask")
    seen = _since(start_ns, store.observations(stream=stream, columns=seen_columns), "t").to_pandas()
    told = _since(
        start_ns, store.captions(stream=stream, columns=told_columns), "t_start", "t_end"
    ).to_pandas()
    if asked is not None:
        kept = {(e.track, e.start_ns - start_ns) for e, _ in store.matching(stream, asked)}
        found = [key in kept for key in zip(told["track"], told["t_start"], strict=True)]
        told["text"] = told["text"].astype(str).where(np.array(found, bool), "")
    damaged: list[tuple[int, int]] = []
    paths = []
    events = dict(tuple(told.sort_values(["track", "t_start"]).groupby("track")))
    seen = seen.drop_duplicates(["track", "t"]).sort_values(["track", "t"])
    for track, rows in seen.groupby("track"):
        own = events.get(track, told.iloc[:0])
        # Where masks of observations are not kept, the events have those of their keyframes.
        begun = dict(zip(own["t_start"], own["mask"], strict=True))
        stored = [mask or begun.get(at) for at, mask in zip(rows["t"], rows["mask"], strict=True)]
        masks = [_mask(mask) for mask in stored]
        damaged += [
            (int(track), int(at))
            for at, raw, mask in zip(rows["t"], stored, masks, strict=True)
            if raw and mask is None
        ]
        paths.append(
            TrackPath(
                track=int(track),
                seen_ns=rows["t"].to_numpy(),
                boxes=rows[["x0", "y0", "x1", "y1"]].to_numpy(np.float64),
                starts_ns=own["t_start"].to_numpy(),
                ends_ns=own["t_end"].to_numpy(),
                texts=tuple(own["text"].astype(str)),
                scores=own["score"].to_numpy(np.float64),
                masks=tuple(masks),
                shots=rows["shot"].to_numpy(),
            )
        )
    if damaged:
        track, at = min(damaged, key=lambda place: place[1])
        log.warning(
            "%s: %d stored masks are damaged and not drawn, the first at %.1f s of track %d",
            stream, len(damaged), at / NS, track,
        )  # fmt: skip
    return paths


def _mask(stored: dict[str, Any] | None) -> RleMask | None:
    """A mask as the store gives it; None where there is none, or where its run lengths are those of no picture."""
    if not stored:
        return None
    height, width = (int(side) for side in stored["size"])
    mask = RleMask((height, width), stored["counts"])
    try:
        run_lengths(mask)
    except MaskMalformed:
        return None
    return mask


def labels_at(
    paths: list[TrackPath],
    at_ns: int,
    max_gap_ns: int,
    display: DisplayOptions,
    size: tuple[int, int] | None = None,
) -> list[Label]:
    """What to draw at `at_ns`, the surest captions first. `size`: (H, W) of the picture, for masks; none without.

    Left out: captions below `display.min_score`, and those that another one says of the same thing.
    """
    labels = []
    for path in paths:
        # Of a film's tracks few are there at a time.
        box = path.box_at(at_ns, max_gap_ns) if path.seen_ns[0] <= at_ns <= path.seen_ns[-1] else None
        if box is None:
            continue
        text, score = path.caption_at(at_ns)
        if text and score >= display.min_score:
            labels.append(Label(path.track, tuple(float(v) for v in box), text, score))
    outlines = None if size is None else PlacedOutlines(paths, labels, at_ns, max_gap_ns, size)
    kept = without_repeats(labels, outlines)
    shown = [replace(label, text=display.words(label.text, label.score)) for label in kept]
    if outlines is None or display.draw is Drawn.BOXES:
        return shown
    return [replace(label, mask=outlines.of(label.track)) for label in shown]


class PlacedOutlines:
    """The masks of `labels` at `at_ns`, each moved to where its box is, in a picture of `size` (H, W); made when asked for."""

    def __init__(
        self,
        paths: Sequence[TrackPath],
        labels: Sequence[Label],
        at_ns: int,
        max_gap_ns: int,
        size: tuple[int, int],
    ) -> None:
        self._paths = {path.track: path for path in paths}
        self._labels = labels
        self._boxes = {label.track: label.box for label in labels}
        self._at = at_ns, max_gap_ns
        self._size = size
        self._made: dict[int, PlacedMask | None] = {}

    def of(self, track: int) -> PlacedMask | None:
        """The mask of a track's label; None where none is known."""
        if track not in self._made:
            masks = self._paths[track].masks_at(*self._at)
            self._made[track] = moved(masks, self._boxes[track], self._size) if masks else None
        return self._made[track]

    def covers(self, region: int, other: int) -> float | None:
        """See `pipeline.core.shown_once.Outlines`; regions are the labels."""
        first, second = (self.of(self._labels[index].track) for index in (region, other))
        if first is None or second is None:
            return None
        return first.shared_with(second) / int(second.inside.sum())


def without_repeats(labels: list[Label], outlines: PlacedOutlines | None = None) -> list[Label]:
    """The labels of one moment, surest first, each thing once (see `pipeline.core.shown_once`)."""
    boxes = np.array([label.box for label in labels], np.float64).reshape(-1, 4)
    texts, scores = [label.text for label in labels], [label.score for label in labels]
    return [labels[index] for index in shown_once(boxes, texts, scores, outlines=outlines)]


def write_annotated(
    source: Source,
    paths: list[TrackPath],
    output: Path,
    *,
    max_gap_s: float,
    display: DisplayOptions,
    on_frame: Callable[[int], None] = lambda at_ns: None,
    between_ns: tuple[int | None, int | None] = (None, None),
) -> int:
    """Draw `paths` into the frames of `source` and write H.264 with the same times. Returns the frame count.

    After a PTS reset, time stamps go on where they were. Boxes are interpolated between keyframes that lie at most
    `max_gap_s` apart. `on_frame` hears of each frame's time, ns from the start. Raises `UserError` when `output`
    cannot be written. `between_ns`: first and last moment that is written, wall ns; the film then begins with it.
    """
    first_ns, last_ns = between_ns
    begin_ns = 0 if first_ns is None else max(0, first_ns - source.info.start_wall_ns)
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
                if first_ns is not None and item.time.wall_ns < first_ns:
                    continue
                if last_ns is not None and item.time.wall_ns > last_ns:
                    break
                at_ns = item.time.wall_ns - source.info.start_wall_ns
                # A copy: the source may keep its own pixels.
                picture = item.to_frame().rgb.copy()
                labels = labels_at(paths, at_ns, round(max_gap_s * NS), display, picture.shape[:2])
                draw_labels(picture, labels, display.draw)
                picture = np.pad(
                    picture, ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)), "edge"
                )
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                ticks = max(last_ticks + 1, (at_ns - begin_ns) * 90_000 // NS)
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
