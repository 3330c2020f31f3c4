"""Questions to the segments of a stream, and what is done when one of them is damaged or goes away meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from pipeline.core.clock import TimeSpan
from pipeline.core.errors import StoreRefused
from pipeline.store.damage import SegmentDamaged
from pipeline.store.durable_files import refusal
from pipeline.store.ordered_scan import OrderedRows, scan_captions
from pipeline.store.place import StorePlace
from pipeline.store.row_query import RowFilter, StoredSegment, open_segment, verify_segment
from pipeline.store.segment_name import SegmentName, Visible
from pipeline.store.stream_directory import list_visible

OPEN_SEGMENTS = 96
_ATTEMPTS = 5

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A segment or archive that could not be read, and the time (wall ns) that its name tells.

    `covered`: other files hold all of its rows, as those that it was merged from, so that no answer lacks any.
    """

    stream: str
    path: str
    span: TimeSpan
    reason: str
    covered: bool = False


class OpenSegments:
    """Segments that are kept open between questions, and the damage that was met. `strict`: damage ends a question."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self._readers: OrderedDict[tuple[str, str], StoredSegment] = OrderedDict()
        self._damage: dict[tuple[str, str], tuple[SegmentName, DamagedFile]] = {}
        self._mutex = threading.Lock()

    def ask(
        self,
        place: StorePlace,
        start: int | None,
        end: int | None,
        question: Callable[[list[StoredSegment]], Answer],
    ) -> Answer:
        """The answer from all segments of a stream that may hold rows of [start, end], in order of commit.

        A damaged one is left out, and what it was merged from asked in its place while that is there. Raises
        `StoreRefused` where the stream cannot be read at all, or for damage if `strict`.
        """
        damaged: dict[str, SegmentDamaged] = {}
        attempts = 0
        while attempts < _ATTEMPTS:
            names: list[SegmentName] = []
            try:
                shown = self.shown(place, damaged)
                names = [name for name in shown.segments if name.overlaps(start, end)]
                answer = question([self._reader(place, name) for name in names])
                self.remember(place, shown, damaged)
                return answer
            except FileNotFoundError:  # merged and buried, or forgotten, since it was listed
                attempts += 1
                self._drop(place, names)
            except SegmentDamaged as error:
                if self.strict or error.key in damaged:
                    raise
                damaged |= {error.key: error, **self._all_damaged(place, names)}
                self._drop(place, names)
            except OSError as error:
                raise refusal(error, place.where, "read") from error
        raise StoreRefused(f"segments of {place.where} vanish while they are read: is it being deleted?")

    def scan(
        self,
        place: StorePlace,
        wanted: RowFilter,
        made: Callable[[OrderedRows], Answer],
        *,
        newest: bool = False,
    ) -> Iterator[Answer]:
        """Caption events of a stream in order, as `made` makes them of each block. Nothing is read before it is asked for.

        Where a segment goes away or turns out to be damaged, the rest goes on behind the last event told. Errors: as `ask`.
        """
        damaged: dict[str, SegmentDamaged] = {}
        attempts, after = 0, None
        while True:
            names: list[SegmentName] = []
            try:
                shown = self.shown(place, damaged)
                self.remember(place, shown, damaged)
                names = [name for name in shown.segments if name.overlaps(wanted.start, wanted.end)]
                blocks = scan_captions(
                    names, lambda name: self._reader(place, name), wanted, newest=newest, after=after
                )
                for block in blocks:
                    answer = made(block)
                    yield answer
                    after, attempts = block.last, 0
                return
            except FileNotFoundError:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise StoreRefused(
                        f"segments of {place.where} vanish while they are read: is it being deleted?"
                    ) from None
                self._drop(place, names)
            except SegmentDamaged as error:
                if self.strict or error.key in damaged:
                    raise
                damaged |= {error.key: error, **self._all_damaged(place, names)}
                self._drop(place, names)
            except OSError as error:
                raise refusal(error, place.where, "read") from error

    def shown(
        self, place: StorePlace, damaged: Mapping[str, SegmentDamaged] = MappingProxyType({})
    ) -> Visible:
        """The segments that count, without `damaged` ones. Raises `StoreRefused` where all that was committed is gone, OSError."""
        shown = list_visible(place, without=damaged.keys())
        if shown.ends and not shown.segments:
            raise StoreRefused(
                f"{place.where} holds nothing, though its writers left {shown.ends[-1][1]} commits: restore its folders from a copy"
            )
        return shown

    def damage(self, place: StorePlace | None = None, covered: bool = False) -> list[DamagedFile]:
        """What could not be read so far and still cannot, by time; of one stream or of all. `covered`: that too of which no row is missing."""
        with self._mutex:
            met = [(where, file) for (where, _), (_, file) in self._damage.items()]
        return sorted(
            (
                file
                for where, file in met
                if (place is None or where == place.where) and (covered or not file.covered)
            ),
            key=lambda file: (file.stream, file.span.start),
        )

    def recheck(self, place: StorePlace) -> None:
        """Forget damage that was mended: whose file was put right, or moved out of the store (then it is lost)."""
        with self._mutex:
            met = [(key, name) for key, (name, _) in self._damage.items() if key[0] == place.where]
        for key, name in met:
            try:
                verify_segment(place, name)
            except SegmentDamaged:
                continue
            except OSError:
                pass
            with self._mutex:
                self._damage.pop(key, None)

    def clear(self) -> None:
        with self._mutex:
            self._readers.clear()
            self._damage.clear()

    def _all_damaged(self, place: StorePlace, names: list[SegmentName]) -> dict[str, SegmentDamaged]:
        """Where one is damaged more may be: all are looked at at once, not one more in each repetition."""
        found = {}
        for name in names:
            try:
                verify_segment(place, name)
            except SegmentDamaged as error:
                found[error.key] = error
            except OSError:  # gone meanwhile, or the question meets it itself
                pass
        return found

    def remember(self, place: StorePlace, shown: Visible, damaged: dict[str, SegmentDamaged]) -> None:
        """Damage that was met while `shown` was read, and whether other segments hold the same commits."""
        for key, error in damaged.items():
            name = SegmentName.parse(*key.split("/", 1))
            if name is None:
                continue
            file = DamagedFile(
                place.where.rpartition("/")[2],
                error.path,
                TimeSpan(name.t_min, name.t_max),
                error.reason,
                _covered(name, shown),
            )
            with self._mutex:
                self._damage[place.where, key] = (name, file)

    def _drop(self, place: StorePlace, names: list[SegmentName]) -> None:
        with self._mutex:
            for name in names:
                self._readers.pop((place.where, name.path), None)

    def _reader(self, place: StorePlace, name: SegmentName) -> StoredSegment:
        path = (place.where, name.path)
        with self._mutex:
            if path in self._readers:
                self._readers.move_to_end(path)
                return self._readers[path]
        try:
            reader = open_segment(place, name)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refusal(error, "/".join(path), "read") from error
        with self._mutex:
            self._readers[path] = reader
            while len(self._readers) > OPEN_SEGMENTS:
                self._readers.popitem(last=False)
        return reader


def _covered(name: SegmentName, shown: Visible) -> bool:
    """Whether other segments hold every commit of one that cannot be read."""
    held = sum(max(0, min(name.hi, s.hi) - max(name.lo, s.lo)) for s in shown.segments)
    return held >= name.hi - name.lo
