"""From analysed keyframes to committed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from time import monotonic_ns, time_ns
from typing import Protocol

from pydantic import Field

from pipeline.core.clock import NS
from pipeline.core.options import Options
from pipeline.core.records import (
    Batch,
    CaptionEvent,
    ClockReading,
    ClosedTrack,
    Cut,
    EffortStep,
    Gap,
    Observation,
    ResumePoint,
    StoredCaption,
)
from pipeline.core.regions import EndedTrack, RegionCaption, Regions
from pipeline.recording.clock_drift import ClockLog
from pipeline.recording.events import CaptionEventOptions, CaptionEvents


class KeptMasks(StrEnum):
    """Which masks are stored. EVENTS: those with which a caption event begins. ALL: those of every observation too."""

    NONE = "none"
    EVENTS = "events"
    ALL = "all"


class RecordingOptions(Options):
    """How often rows become durable, what of them is kept, and how long those of cameras are."""

    commit_s: float = Field(default=1.0, gt=0, description="seconds between commits")
    commit_rows: int = Field(
        default=512, ge=1, description="rows that are committed at once, however little time has passed"
    )
    masks: KeptMasks = Field(
        default=KeptMasks.ALL,
        description="which masks are stored: none, of caption events as they begin, or of every observation; what is not "
        "stored is drawn as a box",
    )
    archive_days: bool = Field(
        default=False,
        description="turn a camera's closed UTC days into plain Zarr groups for other programs",
    )
    keep_days: float | None = Field(
        default=None, gt=0, description="delete a camera's rows that are older than so many days; none: never"
    )
    keep_gb: float | None = Field(
        default=None,
        gt=0,
        description="delete a camera's oldest rows when they take more than so many GB (10^9 bytes), looked at once an hour; none: never",
    )


class Writer(Protocol):
    """What a recorder needs of a store."""

    @property
    def resume(self) -> ResumePoint: ...

    def commit(self, batch: Batch) -> None: ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """Totals since the recorder was made, and the point up to which everything is durable.

    `stored`: caption events that became durable since the last report, in the order written.
    """

    keyframes: int
    observations: int
    captions: int
    events: int
    gaps: int
    tracks: int
    durable: ResumePoint
    stored: tuple[StoredCaption, ...] = ()


def commit_due(rows: int, waited_ns: int, options: RecordingOptions) -> bool:
    """Whether collected rows should be committed now."""
    return rows >= options.commit_rows or waited_ns >= options.commit_s * NS


@dataclass(slots=True)
class _Pending:
    observations: list[Observation] = field(default_factory=list)
    captions: list[CaptionEvent] = field(default_factory=list)
    tracks: list[ClosedTrack] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    clocks: list[ClockReading] = field(default_factory=list)
    efforts: list[EffortStep] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)

    def __len__(self) -> int:
        rows = (
            self.observations,
            self.captions,
            self.tracks,
            self.gaps,
            self.clocks,
            self.efforts,
            self.cuts,
        )
        return sum(len(row) for row in rows)


class Recorder:
    """Collects the rows of one stream and commits them with the point to resume from.

    All rows of a keyframe, its captions included, go into one commit, so a resumed run neither repeats nor misses
    any. `clock_ns`: a steady clock, `wall_ns`: ns UTC, for tests.
    """

    def __init__(
        self,
        writer: Writer,
        recording: RecordingOptions,
        events: CaptionEventOptions,
        clock_ns: Callable[[], int] = monotonic_ns,
        wall_ns: Callable[[], int] = time_ns,
    ) -> None:
        self._writer = writer
        self._options = recording
        self._events = CaptionEvents(events)
        self._clocks = ClockLog()
        self._clock_ns = clock_ns
        self._wall_ns = wall_ns
        self._stored: list[StoredCaption] = []
        self._pending = _Pending()
        self._point = writer.resume
        self._met: list[Cut] = []
        self._committed_ns = clock_ns()
        self._keyframes = self._observations = self._captions = self._gaps = self._tracks = 0
        # Numbers are given out in order, so every track above this one is new.
        self._last_track = writer.resume.next_track - 1

    def report(self) -> Recorded:
        """Where the stream stands. Each caption event that became durable is in one report only."""
        stored, self._stored = tuple(self._stored), []
        return Recorded(
            self._keyframes,
            self._observations,
            self._captions,
            self._events.begun,
            self._gaps,
            self._tracks,
            self._writer.resume,
            stored,
        )

    def keyframe(
        self,
        regions: Regions,
        captions: Sequence[RegionCaption | None],
        ended: Sequence[EndedTrack],
        next_track: int,
    ) -> None:
        """Take one keyframe in, and commit when it is time. A caption of None had no words."""
        time, index = regions.time, regions.frame_index
        reading = self._clocks.note(time)
        if reading is not None:
            self._pending.clocks.append(reading)
        worded = [self._masked(caption) for caption in captions if caption is not None]
        kept = self._options.masks is KeptMasks.ALL
        masks = regions.masks if kept else (None,) * len(regions)
        captioned = {caption.track for caption in worded}
        for row, track in enumerate(regions.track_ids.tolist()):
            if track < 0:
                continue
            x1, y1, x2, y2 = (float(value) for value in regions.boxes[row])
            box = (x1, y1, x2, y2)
            self._pending.observations.append(
                Observation(
                    time.wall_ns, time.pts_ns, index, track, box, float(regions.scores[row]), masks[row]
                )
            )
            self._observations += 1
            if track not in captioned:
                self._write(self._events.seen(track, index, time, box))
        fresh = {track for track in regions.track_ids.tolist() if track > self._last_track}
        self._tracks += len(fresh)
        self._last_track = max(fresh, default=self._last_track)
        for caption in worded:
            self._write(self._events.captioned(caption))
        self._captions += len(captions)
        self._close(ended)
        self._keyframes += 1
        # A cut is stored with the first keyframe behind it: a run that goes on from before it meets it again.
        self._pending.cuts += self._met
        shot = self._point.shot + len(self._met)
        self._met = []
        self._point = ResumePoint(time.pts_ns, index, time.epoch, time.wall_ns, next_track, shot)
        if commit_due(len(self._pending), self._clock_ns() - self._committed_ns, self._options):
            self.commit()

    def note(self, event: Gap | EffortStep | Cut) -> None:
        """Take in what happened to the stream between keyframes."""
        match event:
            case Gap():
                self.gap(event)
            case EffortStep():
                self.effort(event)
            case Cut():
                self.cut(event)

    def gap(self, gap: Gap) -> None:
        """Take a gap in; it is stored with the next commit."""
        self._pending.gaps.append(gap)
        self._gaps += 1

    def effort(self, step: EffortStep) -> None:
        """Take a step of effort in; it is stored with the next commit."""
        self._pending.efforts.append(step)

    def cut(self, cut: Cut) -> None:
        """Take a cut in; it is stored with the next keyframe, which is of the new shot."""
        self._met.append(cut)

    def finish(self, ended: Sequence[EndedTrack], reached: ResumePoint | None) -> None:
        """End of the run: bring every event up to date and commit.

        `ended`: the tracks that the end of the stream has ended. `reached`: how far the source was read behind the
        last keyframe, when it was read to its end.
        """
        self._close(ended)
        self._write(self._events.flush())
        if reached is not None and (reached.epoch, reached.pts_ns) > (self._point.epoch, self._point.pts_ns):
            next_track = max(self._point.next_track, reached.next_track)
            self._point = ResumePoint(
                reached.pts_ns, reached.frame, reached.epoch, reached.wall_ns, next_track, self._point.shot
            )
        self.commit()

    def commit(self) -> None:
        """Make everything collected durable."""
        pending, self._pending = self._pending, _Pending()
        try:
            self._writer.commit(
                Batch(
                    tuple(pending.observations),
                    tuple(pending.captions),
                    tuple(pending.tracks),
                    tuple(pending.gaps),
                    tuple(pending.clocks),
                    tuple(pending.efforts),
                    tuple(pending.cuts),
                    self._point,
                )
            )
        except BaseException:
            self._pending = pending
            raise
        self._committed_ns = self._clock_ns()
        durable_ns = self._wall_ns()
        self._stored += [StoredCaption.of(event, durable_ns) for event in pending.captions]

    def _masked(self, caption: RegionCaption) -> RegionCaption:
        return replace(caption, mask=None) if self._options.masks is KeptMasks.NONE else caption

    def _write(self, events: Sequence[CaptionEvent]) -> None:
        self._pending.captions.extend(events)

    def _close(self, ended: Sequence[EndedTrack]) -> None:
        for track in ended:
            text = self._events.best_text(track.track)
            self._write(self._events.ended(track.track))
            self._pending.tracks.append(
                ClosedTrack(track.track, track.first_ns, track.last_ns, track.observations, text)
            )
