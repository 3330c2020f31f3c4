"""Subtitle cues: what is shown from when to when, in whole milliseconds."""

from __future__ import annotations

import heapq
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.query.rows import COALESCE_NS, CaptionRow

# About what broadcasters ask for at least. A thing that was seen in one keyframe only is shown for so long.
LEAST_MS = 700
AT_ONCE = 3
"""As many lines as a picture has room for below what it shows."""

_LONGEST_NS = 600 * 10**9


@dataclass(frozen=True, slots=True)
class Cue:
    """Milliseconds from the stream's start, `end_ms` > `start_ms`; one line of text, without markup or escapes."""

    start_ms: int
    end_ms: int
    text: str


def cues_of(rows: Iterable[CaptionRow], at_once: int | None = None) -> Cues:
    """The cues of `rows`, of one stream and ordered by start; see `Cues`."""
    return Cues(rows, at_once)


class Cues:
    """Iterate over it for one cue for what was said of a track without a pause, ordered by start; once.

    Each can be seen: it lasts `LEAST_MS`, or until its track is called otherwise, and never begins before 0. What is said for longer than
    ten minutes goes on in another cue, so that no more than ten minutes of rows are held. Of more than `at_once` at a time the
    surest are shown; another waits until there is room. `left_out`: how many were over before there was, once all were taken.
    """

    def __init__(self, rows: Iterable[CaptionRow], at_once: int | None = None) -> None:
        self._rows, self._at_once, self.left_out = rows, at_once, 0

    def __iter__(self) -> Iterator[Cue]:
        wanted = (_wanted(said) for said in _joined(self._rows))
        if self._at_once is None:
            yield from (Cue(one.start_ms, one.end_ms, one.text) for one in wanted)
            return
        screen = _Screen(self._at_once)
        for one in wanted:
            yield from screen.show(one)
        yield from screen.clear()
        self.left_out = screen.left_out


@dataclass(slots=True)
class _Said:
    """What was said of a track without a pause. `next_s`: when it was called otherwise, if soon."""

    row: CaptionRow
    end_ns: int
    end_s: float
    score: float
    next_s: float | None = None
    over: bool = False


def _joined(rows: Iterable[CaptionRow]) -> Iterator[_Said]:
    waiting: deque[_Said] = deque()
    latest: dict[int, _Said] = {}
    for row in rows:
        before = latest.get(row.track)
        if (
            before is not None
            and before.row.text == row.text
            and row.start_ns <= before.end_ns + COALESCE_NS
            and row.start_ns - before.row.start_ns < _LONGEST_NS
        ):
            before.end_ns, before.end_s = max(before.end_ns, row.end_ns), max(before.end_s, row.end_s)
            before.score = max(before.score, row.score)
        else:
            if before is not None:
                before.over, before.next_s = True, row.start_s
            latest[row.track] = said = _Said(row, row.end_ns, row.end_s, row.score)
            waiting.append(said)
        while waiting and (waiting[0].over or row.start_ns > waiting[0].end_ns + COALESCE_NS):
            said = waiting[0]
            if latest.get(said.row.track) is said:
                del latest[said.row.track]
            yield waiting.popleft()
    yield from waiting


def _wanted(said: _Said) -> _Wanted:
    start, end = (max(0, round(seconds * 1000)) for seconds in (said.row.start_s, said.end_s))
    shown = start + LEAST_MS
    if said.next_s is not None:
        shown = min(shown, max(0, round(said.next_s * 1000)))
    return _Wanted(
        start, max(end, shown, start + 1), f"[{said.row.track}] {_line(said.row.text)}", said.score
    )


@dataclass(slots=True)
class _Wanted:
    """A cue that is to be shown. `was_shown`: a part of it was."""

    start_ms: int
    end_ms: int
    text: str
    score: float
    was_shown: bool = False


class _Screen:
    """What is shown at a time, as it goes by. `left_out`: of what was over before there was room."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._shown: list[_Wanted] = []
        self._waiting: list[_Wanted] = []
        self._done: list[tuple[int, int, Cue]] = []
        self._count = 0
        self.left_out = 0

    def show(self, cue: _Wanted) -> Iterator[Cue]:
        """A further cue, which begins no earlier than those before. Gives those out that are in order by now."""
        self._pass_until(cue.start_ms)
        weakest = min(self._shown, key=lambda one: one.score, default=None)
        if len(self._shown) < self._room:
            self._shown.append(cue)
        elif (
            weakest is not None and weakest.score < cue.score and cue.start_ms - weakest.start_ms >= LEAST_MS
        ):
            self._end(weakest, cue.start_ms)
            self._waiting.append(replace(weakest, was_shown=True))
            self._shown.append(cue)
        else:
            self._waiting.append(cue)
        yield from self._in_order(min([cue.start_ms, *(one.start_ms for one in self._shown)]))

    def clear(self) -> Iterator[Cue]:
        """The rest."""
        self._pass_until(None)
        yield from self._in_order(None)

    def _pass_until(self, moment: int | None) -> None:
        while self._shown:
            first = min(self._shown, key=lambda one: one.end_ms)
            if moment is not None and first.end_ms > moment:
                break
            self._end(first, first.end_ms)
            free_ms = first.end_ms
            late = [one for one in self._waiting if one.end_ms - free_ms < LEAST_MS]
            self.left_out += sum(not one.was_shown for one in late)
            self._waiting = [one for one in self._waiting if one.end_ms - free_ms >= LEAST_MS]
            if self._waiting:
                surest = max(self._waiting, key=lambda one: one.score)
                self._waiting.remove(surest)
                self._shown.append(replace(surest, start_ms=free_ms))

    def _end(self, cue: _Wanted, end_ms: int) -> None:
        self._shown.remove(cue)
        self._count += 1
        heapq.heappush(self._done, (cue.start_ms, self._count, Cue(cue.start_ms, end_ms, cue.text)))

    def _in_order(self, before: int | None) -> Iterator[Cue]:
        while self._done and (before is None or self._done[0][0] <= before):
            yield heapq.heappop(self._done)[2]


def cue_time(milliseconds: int, point: str) -> str:
    """HH:MM:SS and milliseconds behind `point`; hours grow past 99."""
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _line(text: str) -> str:
    """One line, for an empty one would end the cue; without control characters."""
    shown = (
        " " if unicodedata.category(char)[0] in "CZ" and char not in "\u200c\u200d" else char for char in text
    )
    return " ".join("".join(shown).split())
