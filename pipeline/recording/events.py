"""From single captions to events: what a track was called, from when to when."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np
from pydantic import Field

from pipeline.core.clock import NS
from pipeline.core.frame import FrameTime
from pipeline.core.options import Options
from pipeline.core.records import CaptionEvent
from pipeline.core.regions import RegionCaption
from pipeline.core.shown_once import name_of

# Likeness above which two captions say the same: "a man in a red shirt" and "a man in red", but not "a man". A guess.
_SAME_TEXT = 0.75
# By how much (logits) two readings of one name are surer than their mean, and two names less sure than the surer reading. Replayed
# on readings of 36 annotated pictures: .2 for the first, or 1 for the second, shows fewer right names at the same share of wrong ones.
_AGREED = 0.5
_CERTAIN = 0.997  # no score is taken for surer, or for less sure than the rest
_FILLERS = frozenset(
    {"a", "an", "the", "of", "in", "on", "at", "with", "and", "is", "are", "to", "his", "her", "its", "their"}
)


class CaptionEventOptions(Options):
    """When captions join into one event. Seconds of wall-clock time."""

    max_event_s: float = Field(default=60.0, gt=0, description="a longer event is continued by a new one")
    max_absence_s: float = Field(
        default=5.0, gt=0, description="unseen for longer, a track starts a new event"
    )
    # Counted by eye on 98 captions of five clips: of those without a word in common with the track's earlier ones .46
    # were right, of the others .70.
    contradiction: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="factor on the score of a caption that shares no word with the track's earlier ones",
    )
    extend_every_s: float = Field(
        default=5.0, ge=0, description="how often a lasting event's end is rewritten"
    )


def read_again(text: str, score: float, new_text: str, new_score: float) -> tuple[str, float]:
    """What a region is called, and how surely, that was called `text` and is called `new_text` by a further reading.

    The words are those of the surer reading. Two that give one name are surer than their mean, two names less sure than either was.
    """
    surest = (new_text, new_score) if new_score > score else (text, score)
    if name_of(text) == name_of(new_text):
        return surest[0], _expit((_logit(score) + _logit(new_score)) / 2 + _AGREED)
    return surest[0], _expit(_logit(surest[1]) - _AGREED)


def likeness(first: str, second: str) -> float:
    """How far two captions say the same, 0..1: their words without fillers, compared in order."""
    words = [_content(first), _content(second)]
    if words[0] == words[1]:
        return 1.0
    return SequenceMatcher(None, words[0], words[1], autojunk=False).ratio()


class CaptionEvents:
    """The open event of every track of one stream.

    Feed it what each keyframe brought, in order; it returns the rows to write. A row with a (track, start_ns) that
    was written before replaces the earlier one. `best_text` remembers a track's most certain caption. `begun`: how
    many events there were. A caption that has nothing in common with what its track was called before is less often
    right than its score says, and that is lowered. A further reading of the same looks joins the earlier ones (`read_again`).
    """

    def __init__(self, options: CaptionEventOptions) -> None:
        self._options = options
        self.begun = 0
        self._open: dict[int, _OpenEvent] = {}
        self._best: dict[int, tuple[float, str]] = {}
        self._words: dict[int, set[str]] = {}

    def best_text(self, track: int) -> str:
        """The most certain caption that the track has had, empty when none."""
        return self._best.get(track, (0.0, ""))[1]

    def captioned(self, caption: RegionCaption) -> list[CaptionEvent]:
        """Rows after a new caption: the earlier event extended, or closed and a new one begun."""
        before = self._open.get(caption.track)
        if caption.again and before is not None:
            return self._read_again(caption, before)
        caption = self._weighed(caption)
        self._note_best(caption)
        current = self._open.get(caption.track)
        if current is None:
            return [self._begin(caption)]
        if likeness(current.event.text, caption.text) >= _SAME_TEXT:
            current.last_frame, current.last_box = caption.frame, caption.box
            event = current.event
            if self._is_over(event, caption.time):
                return [self._closed(event, caption.time), self._begin(caption)]
            if caption.score > event.score:
                event = replace(event, text=caption.text, score=caption.score, logprob=caption.logprob)
            current.event = event
            return self._extend(current, caption.time, must_write=True)
        return [self._closed(current.event, caption.time), self._begin(caption)]

    def seen(
        self, track: int, frame: int, time: FrameTime, box: tuple[float, float, float, float]
    ) -> list[CaptionEvent]:
        """Rows after the track was seen again without a new caption."""
        current = self._open.get(track)
        if current is None:
            return []
        current.last_frame, current.last_box = frame, box
        return self._extend(current, time, must_write=False)

    def ended(self, track: int) -> list[CaptionEvent]:
        """The last row of a track that will not come back."""
        current = self._open.pop(track, None)
        self._best.pop(track, None)
        self._words.pop(track, None)
        return [current.event] if current is not None and current.event.end_ns != current.written_ns else []

    def flush(self) -> list[CaptionEvent]:
        """Rows that bring every open event up to date, for the end of a run."""
        late = [event for event in self._open.values() if event.event.end_ns != event.written_ns]
        for current in late:
            current.written_ns = current.event.end_ns
        return [current.event for current in late]

    def _read_again(self, caption: RegionCaption, current: _OpenEvent) -> list[CaptionEvent]:
        """Rows after a further reading of what has a caption: of the same name the event goes on, surer or less sure."""
        known = current.event
        text, score = read_again(known.text, known.score, caption.text, caption.score)
        own = name_of(text) == name_of(known.text)
        logprob = known.logprob if text == known.text else caption.logprob
        self._words[caption.track] |= set(_content(caption.text))
        joined = replace(caption, text=text, score=score, logprob=logprob)
        self._note_best(joined)
        if not own or self._is_over(known, caption.time):
            return [self._closed(known, caption.time), self._begin(joined)]
        current.last_frame, current.last_box = caption.frame, caption.box
        current.event = replace(known, text=text, score=score, logprob=logprob)
        return self._extend(current, caption.time, must_write=True)

    def _weighed(self, caption: RegionCaption) -> RegionCaption:
        """The caption with its score lowered where it contradicts what the track was called before."""
        words = set(_content(caption.text))
        earlier = self._words.setdefault(caption.track, set())
        contradicts = bool(earlier) and earlier.isdisjoint(words)
        earlier |= words
        return replace(caption, score=caption.score * self._options.contradiction) if contradicts else caption

    def _note_best(self, caption: RegionCaption) -> None:
        best = self._best.get(caption.track)
        if best is None or caption.score > best[0]:
            self._best[caption.track] = (caption.score, caption.text)

    def _begin(self, caption: RegionCaption) -> CaptionEvent:
        event = CaptionEvent(
            track=caption.track,
            start_ns=caption.time.wall_ns,
            end_ns=caption.time.wall_ns,
            start_pts_ns=caption.time.pts_ns,
            end_pts_ns=caption.time.pts_ns,
            frame=caption.frame,
            box=caption.box,
            text=caption.text,
            score=caption.score,
            logprob=caption.logprob,
            # A copy: the feature may be a view of memory that is shared between processes, and an event lasts for long.
            embedding=np.array(caption.feature, np.float32),
            mask=caption.mask,
        )
        self.begun += 1
        self._open[caption.track] = _OpenEvent(event, event.end_ns, caption.frame, caption.box)
        return event

    def _is_over(self, event: CaptionEvent, time: FrameTime) -> bool:
        """Whether what is seen at `time` belongs to a new event: the track was away, or this one is long enough."""
        long = time.wall_ns - event.start_ns >= self._options.max_event_s * NS
        return long or self._was_absent(event, time)

    def _was_absent(self, event: CaptionEvent, time: FrameTime) -> bool:
        return time.wall_ns - event.end_ns > self._options.max_absence_s * NS

    def _closed(self, event: CaptionEvent, time: FrameTime) -> CaptionEvent:
        """An event as it ends when something new begins at `time`: there, unless the track was away before it."""
        if self._was_absent(event, time):
            return event
        return replace(event, end_ns=time.wall_ns, end_pts_ns=time.pts_ns)

    def _extend(self, current: _OpenEvent, time: FrameTime, *, must_write: bool) -> list[CaptionEvent]:
        event = replace(current.event, end_ns=time.wall_ns, end_pts_ns=time.pts_ns)
        if self._is_over(current.event, time):
            # The continuation has no mask of its own: the old one belongs to another moment.
            following = replace(
                event,
                start_ns=time.wall_ns,
                start_pts_ns=time.pts_ns,
                frame=current.last_frame,
                box=current.last_box,
                mask=None,
            )
            self.begun += 1
            self._open[event.track] = _OpenEvent(
                following, following.end_ns, current.last_frame, current.last_box
            )
            return [self._closed(current.event, time), following]
        current.event = event
        if must_write or event.end_ns - current.written_ns >= self._options.extend_every_s * NS:
            current.written_ns = event.end_ns
            return [event]
        return []


@dataclass(slots=True)
class _OpenEvent:
    event: CaptionEvent
    written_ns: int
    last_frame: int
    last_box: tuple[float, float, float, float]


def _logit(score: float) -> float:
    sure = min(max(score, 1 - _CERTAIN), _CERTAIN)
    return math.log(sure / (1 - sure))


def _expit(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _content(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in _FILLERS]
