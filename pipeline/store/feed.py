"""What is new in streams, in the order in which it was stored: each caption event and each gap once, and from where to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.core.clock import TimeSpan
from pipeline.core.errors import StoreRefused, UserError
from pipeline.core.records import CaptionEvent, GapReason
from pipeline.store.columns import CaptionColumns, Columns, GapColumns, TrackColumns
from pipeline.store.damage import SegmentDamaged
from pipeline.store.durable_files import refusal
from pipeline.store.feed_cursor import FeedCursor, StreamPosition
from pipeline.store.joined_segments import commit_numbers
from pipeline.store.open_segments import OpenSegments
from pipeline.store.ordered_scan import OrderedRows
from pipeline.store.place import Stamp, StorePlace
from pipeline.store.plain_rows import plain_captions, plain_gaps
from pipeline.store.row_filter import RowFilter
from pipeline.store.row_query import Selection, StoredSegment, gaps_among, matching_captions, open_segment
from pipeline.store.segment_name import SegmentName, Visible
from pipeline.store.stream_directory import list_epochs, list_visible, newest_epoch
from pipeline.store.stream_info import StreamInfo, identity_of

FORGOTTEN = GapReason.FORGOTTEN
"""Why nothing is told of commits that retention has deleted before they were told."""

_ATTEMPTS = 5
_ROWS_AT_ONCE = 4096
# A commit that two listings lack although a later one is there is gone; a listing by a slow network may still be old.
_HOLE_S = 2.0
# A writer fills in its claim at once. One that was killed in between leaves it empty, until the next one comes.
_CLAIM_S = 10.0
# What was seen so long before the end of what is stored is not written anew: events are closed after a minute.
_RECENT_NS = 600 * 10**9


@dataclass(frozen=True, slots=True)
class NewCaption:
    """A caption event that was stored, as it stood when it was read: its end may still be written later. `shot`: its number."""

    stream: str
    event: CaptionEvent
    shot: int


@dataclass(frozen=True, slots=True)
class NewGap:
    """A stretch that was not watched, or of which nothing can be told: "lost", "damaged" or FORGOTTEN."""

    stream: str
    span: TimeSpan
    reason: GapReason | str


class FollowedStore(Protocol):
    """What is asked of a store that is followed."""

    def streams(self) -> dict[str, StreamInfo]: ...

    def place_of_stream(self, stream: str) -> StorePlace: ...


class CaptionFeed:
    """Iterate over it to hear of each event that matches `wanted`, and of each gap, once; it waits for what comes.

    `cursor` is always behind what was taken last: who begins with it misses nothing and hears nothing twice, whatever was
    merged, archived, killed or started again meanwhile. An event is told as soon as one of its versions matches. Made by
    `CaptionStore.follow`. Raises `StoreRefused` where a stream cannot be read.
    """

    def __init__(
        self,
        store: FollowedStore,
        segments: OpenSegments,
        streams: Sequence[str],
        wanted: RowFilter,
        cursor: FeedCursor | None,
        *,
        poll_s: float = 0.5,
        masks: bool = False,
        embeddings: bool = False,
    ) -> None:
        self._store, self._segments, self._named, self._wanted = store, segments, tuple(streams), wanted
        self._poll_s, self._masks, self._embeddings = poll_s, masks, embeddings
        self._positions: dict[str, StreamPosition] = {}
        self._identities: dict[str, str] = {}
        self._seen: dict[str, tuple[Visible, Stamp | None]] = {}
        self._waiting: dict[tuple[str, str], float] = {}
        self._go_on(cursor)

    @property
    def cursor(self) -> str:
        """Where the feed is, as text; give it to `follow` again."""
        return FeedCursor(self._positions, self._identities).text()

    def __iter__(self) -> Iterator[NewCaption | NewGap]:
        while True:
            yield from self.poll()
            time.sleep(self._poll_s)

    def poll(self) -> Iterator[NewCaption | NewGap]:
        """What is new by now. Ends where there is no more; call it again."""
        for name in self._named or self._store.streams():
            # A stream that began after the feed is told from its beginning.
            position = self._positions.setdefault(name, StreamPosition())
            place = self._store.place_of_stream(name)
            if name not in self._identities:
                self._identities[name] = identity_of(place)
            yield from self._new(name, place, position)

    def _go_on(self, cursor: FeedCursor | None) -> None:
        infos = self._store.streams()
        for name in self._named or infos:
            place = self._store.place_of_stream(name)
            known = cursor.positions.get(name) if cursor is not None else None
            if known is None and cursor is not None:
                known = StreamPosition()
            elif known is None and self._wanted.start is not None:
                # What was forgotten before the feed began is none of its business.
                segments = list_visible(place).segments
                known = StreamPosition(segments[0].lo - 1 if segments else -1)
            elif known is None:
                known = self._at_the_end(place)
            whose = cursor.identities.get(name) if cursor is not None else None
            self._identities[name] = identity_of(place)
            other = bool(whose) and self._identities[name] not in ("", whose)
            if other or known.commit >= list_visible(place).reached:
                raise UserError(
                    f"the cursor is {'not of' if other else 'further than'} {place.where}{'' if other else ' goes'}: it belongs to another store, or this one was made anew; "
                    "begin without it"
                )
            self._positions[name] = known

    def _at_the_end(self, place: StorePlace) -> StreamPosition:
        """Behind all that is stored. Events that still last are known already, though they will be written again."""
        for _ in range(_ATTEMPTS):
            shown, damaged = list_visible(place), set[str]()
            position = StreamPosition(commit=shown.next_seq - 1)
            latest = max((name.t_max for name in shown.segments), default=0)
            position.until_ns = latest
            try:
                for name in shown.segments:
                    if name.t_max < latest - _RECENT_NS or name.path in damaged:
                        continue
                    with suppress(SegmentDamaged):
                        source = open_segment(place, name)
                        self._remember_all(position, source)
                        source.close()
                return position
            except FileNotFoundError:
                continue
        raise StoreRefused(f"segments of {place.where} vanish while they are read: is it being deleted?")

    def _remember_all(self, position: StreamPosition, source: StoredSegment) -> None:
        columns = [source.column(CaptionColumns, name).tolist() for name in ("track", "t_start")]
        for track, start, commit in zip(
            *columns, commit_numbers(source, CaptionColumns).tolist(), strict=True
        ):
            position.tells((track, start), commit)
        numbers = commit_numbers(source, GapColumns)
        for gaps in gaps_among(Selection(source, GapColumns, np.arange(len(numbers)))):
            for (span, reason), commit in zip(plain_gaps([gaps]), numbers[gaps.rows].tolist(), strict=True):
                position.tells_gap((span.start, span.end, str(reason)), commit)
        position.reached(position.commit, set(source.column(TrackColumns, "track").tolist()))

    def _new(self, stream: str, place: StorePlace, position: StreamPosition) -> Iterator[NewCaption | NewGap]:
        damaged: dict[str, SegmentDamaged] = {}
        attempts = 0
        while True:
            try:
                shown = self._listed(stream, place, damaged)
                if shown is None:
                    return
                for name in shown.segments:
                    if name.hi <= position.commit:
                        continue
                    if name.lo > position.commit + 1:
                        if self._not_yet(stream, name, shown, damaged):
                            return
                        yield self._missed(name, stream, shown, damaged, position)
                    yield from self._told(stream, place, name, position)
                    attempts = 0
                self._seen[stream] = (shown, self._stamp(place, shown))
                return
            except FileNotFoundError:  # merged and buried since it was listed
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise StoreRefused(
                        f"segments of {place.where} vanish while they are read: is it being deleted?"
                    ) from None
            except SegmentDamaged as error:
                if self._segments.strict or error.key in damaged:
                    raise
                damaged[error.key] = error
            except OSError as error:
                raise refusal(error, place.where, "read") from error

    def _listed(self, stream: str, place: StorePlace, damaged: dict[str, SegmentDamaged]) -> Visible | None:
        """The segments that count; None where nothing has changed, or where it is not yet clear whose commits count."""
        shown = list_visible(place, without=damaged.keys())
        if not damaged and (shown, self._stamp(place, shown)) == self._seen.get(stream):
            return None
        # A writer that was taken over may have put a commit that it takes back; the new one's claim tells from where it counts.
        if newest_epoch(place) > max((claim.epoch for claim in list_epochs(place)), default=-1):
            if not self._waited(stream, "claim", _CLAIM_S):
                return None
        else:
            self._waiting.pop((stream, "claim"), None)
        shown = list_visible(place, without=damaged.keys())
        self._segments.remember(place, shown, damaged)
        return shown

    def _not_yet(
        self, stream: str, name: SegmentName, shown: Visible, damaged: dict[str, SegmentDamaged]
    ) -> bool:
        """Whether the commits before `name` may still turn up."""
        if damaged or name == shown.segments[0]:
            return False
        return not self._waited(stream, f"hole before {name.lo}", _HOLE_S)

    def _waited(self, stream: str, what: str, seconds: float) -> bool:
        now = time.monotonic()
        return now - self._waiting.setdefault((stream, what), now) >= seconds

    def _missed(
        self,
        name: SegmentName,
        stream: str,
        shown: Visible,
        damaged: dict[str, SegmentDamaged],
        position: StreamPosition,
    ) -> NewGap:
        """Tell that nothing can be told of the commits before `name`, and go on behind them."""
        unreadable = [one for key in damaged if (one := SegmentName.parse(*key.split("/", 1))) is not None]
        unreadable = [one for one in unreadable if one.lo < name.lo and one.hi > position.commit + 1]
        reason: GapReason | str = GapReason.LOST
        span = TimeSpan(min(position.until_ns, name.t_min), name.t_min)
        if unreadable:
            reason = GapReason.DAMAGED
            span = TimeSpan(min(one.t_min for one in unreadable), max(one.t_max for one in unreadable))
        elif name == shown.segments[0]:
            reason = FORGOTTEN
        position.reached(name.lo - 1)
        return NewGap(stream, span, reason)

    def _stamp(self, place: StorePlace, shown: Visible) -> Stamp | None:
        """Of the last segment: a commit that was taken back may be put again under the same name."""
        try:
            return place.stamp(shown.segments[-1].path) if shown.segments else None
        except OSError:
            return None

    def _told(
        self, stream: str, place: StorePlace, name: SegmentName, position: StreamPosition
    ) -> Iterator[NewCaption | NewGap]:
        source = open_segment(place, name)
        try:
            kinds: tuple[type[Columns], ...] = (CaptionColumns, GapColumns)
            commits = {kind: commit_numbers(source, kind) for kind in kinds}
            closed = set(source.column(TrackColumns, "track").tolist())
            first = max(position.commit, name.lo)
            while first < name.hi:
                last = _last_of_block(commits[CaptionColumns], first, name.hi - 1)
                rows = {k: np.flatnonzero((n >= first) & (n <= last)) for k, n in commits.items()}
                yield from self._gaps(
                    Selection(source, GapColumns, rows[GapColumns]), commits, stream, position
                )
                found = Selection(source, CaptionColumns, rows[CaptionColumns])
                yield from self._captions(found, commits[CaptionColumns], stream, position)
                position.reached(last, closed)
                first = last + 1
            position.until_ns = max(position.until_ns, name.t_max)
        finally:
            source.close()

    def _captions(
        self, found: Selection, commits: np.ndarray, stream: str, position: StreamPosition
    ) -> Iterator[NewCaption]:
        wanted = self._wanted
        if wanted.track is not None:
            found = found.where(found.column("track") == wanted.track)
        if wanted.start is not None:
            found = found.where(found.column("t_end") >= wanted.start)
        if wanted.end is not None:
            found = found.where(found.column("t_start") <= wanted.end)
        for matching in matching_captions([found] if len(found) else [], wanted):
            numbers = commits[matching.rows]
            order = np.lexsort((matching.column("track"), matching.column("t_start"), numbers))
            block = OrderedRows([matching], order, (0, 0))
            events = plain_captions(block, self._masks, self._embeddings)
            for (event, shot), commit in zip(events, numbers[order].tolist(), strict=True):
                if position.tells((event.track, event.start_ns), commit):
                    yield NewCaption(stream, event, shot)

    def _gaps(
        self,
        rows: Selection,
        commits: dict[type[Columns], np.ndarray],
        stream: str,
        position: StreamPosition,
    ) -> Iterator[NewGap]:
        for found in gaps_among(rows):
            numbers = commits[GapColumns][found.rows].tolist()
            for (span, reason), commit in zip(plain_gaps([found]), numbers, strict=True):
                if span.overlaps(self._wanted.start, self._wanted.end):
                    key = (span.start, span.end, str(reason))
                    if position.tells_gap(key, commit):
                        yield NewGap(stream, span, reason)


def _last_of_block(commits: np.ndarray, first: int, last: int) -> int:
    """The commit with which some thousand rows from `first` on are complete, `last` where there are fewer."""
    later = np.sort(commits[commits >= first])
    return last if len(later) <= _ROWS_AT_ONCE else int(later[_ROWS_AT_ONCE - 1])
