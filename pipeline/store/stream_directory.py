"""The directory of one stream: which segments and epochs lie in it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from pipeline.core.clock import TimeSpan
from pipeline.core.errors import StoreRefused
from pipeline.store.place import Stamp, StorePlace
from pipeline.store.segment_name import SegmentName, Visible, visible
from sca.small_files import parsed_json

FOLDERS = ("hot", "day")
# What else lies there (._0000.json, "0000 copy.json") was left by file managers and is no claim.
_EPOCH = re.compile(r"(\d{4,})\.json")


# At a thousand commits a second for a million years; numbers of commits are kept in 64 bits.
_MOST_COMMITS = 2**60
# More than ever wait to hear that they were taken over; so many are read with each question.
KEPT_EPOCHS = 16


@dataclass(frozen=True, slots=True)
class EpochClaim:
    """A writer's claim on the stream: it commits from `start_seq` on. `end_seq`: the commit after its last, told when it was closed."""

    epoch: int
    start_seq: int
    host: str
    pid: int
    end_seq: int | None = None

    @property
    def reached(self) -> int:
        """So many commits there were, at least, when it was written."""
        return max(self.start_seq, self.end_seq or 0)

    def document(self) -> bytes:
        """With its own number and a checksum: one digit that is another would make commits count that do not, or none."""
        told = {"start_seq": self.start_seq, "host": self.host, "pid": self.pid, "epoch": self.epoch}
        if self.end_seq is not None:
            told["end_seq"] = self.end_seq
        return json.dumps({**told, "crc32": _checksum(told)}).encode()


def list_names(place: StorePlace) -> list[SegmentName]:
    """Every segment file, superseded ones included.

    `hot` is listed before `day`: an archive is in place before what it replaces goes away.
    """
    hot, day = (
        [name for entry in place.list(folder) if (name := SegmentName.parse(folder, entry)) is not None]
        for folder in FOLDERS
    )
    if place.far:
        day = [name for name in day if not _on_its_way(place, name, hot)]
    return hot + day


def _on_its_way(place: StorePlace, archive: SegmentName, hot: Sequence[SegmentName]) -> bool:
    """Whether not all of an archive is uploaded yet: its list of checksums comes last, and what it replaces goes after that."""
    inside = any(archive.lo <= name.lo and name.hi <= archive.hi for name in hot)
    return inside and not place.exists(f"{archive.path}/checksums.json")


def list_epochs(place: StorePlace) -> list[EpochClaim]:
    """Claims in order. One that was made but not yet filled in (its writer is still starting) is left out.

    So is one that goes away while they are read: a writer that starts has pruned it (`prune_epochs`), after it had deleted
    what the claim kept out.
    """
    claims = [
        _claim(place, f"epoch/{entry}", stamp)
        for entry, stamp in place.stamps("epoch").items()
        if _EPOCH.fullmatch(entry)
    ]
    return sorted((claim for claim in claims if claim is not None), key=lambda claim: claim.epoch)


def claimed_epoch(key: str) -> int:
    """Number of the claim under a key; -1 for what is none."""
    match = _EPOCH.fullmatch(key.rpartition("/")[2])
    return int(match[1]) if match else -1


def newest_epoch(place: StorePlace) -> int:
    """Number of the newest claim, filled in or not; -1 without any."""
    return max((claimed_epoch(entry) for entry in place.list("epoch")), default=-1)


def next_epoch(place: StorePlace) -> int:
    """Number for a new claim: above those of all segments too, for where claims were lost what is written anew must win."""
    return max(newest_epoch(place), max((name.epoch for name in list_names(place)), default=-1)) + 1


def prune_epochs(place: StorePlace, keep: int = KEPT_EPOCHS) -> None:
    """Delete all claims but the newest, and what their writers committed after others had taken over, which never counted.

    Only for who holds the stream. A claim keeps out what an older writer commits late. That writer looks for newer claims
    before and after each commit and takes back what was too late, so the newest claims are enough to tell it.
    """
    claims = list_epochs(place)
    if len(claims) <= keep:
        return
    names = list_names(place)
    kept = {claim.epoch: claim.start_seq for claim in claims[-keep:]}
    counted = set(visible(names, {claim.epoch: claim.start_seq for claim in claims}).segments)
    for name in visible(names, kept).segments:
        if name not in counted:  # would count if the claim that keeps it out were gone
            place.delete(name.path)
    if set(visible(list_names(place), kept).segments) != counted:
        return
    for claim in claims[:-keep]:
        place.delete(f"epoch/{claim.epoch:04d}.json")
    place.settle("epoch")


def list_visible(place: StorePlace, without: Collection[str] = frozenset()) -> Visible:
    """The segments a reader counts. `without`: paths of those that cannot be read; what they were merged from may be there.

    A directory changes while it is listed, so a commit may be missed where a later one is seen. A commit missing in
    a second listing as well is really lost, and named in `holes`.
    """
    shown = _visible_now(place, without)
    return _visible_now(place, without) if shown.holes or shown.ends else shown


def remove_temporaries(place: StorePlace) -> None:
    """Delete what a killed writer left half written. Only for who holds the stream's lock."""
    for folder in (*FOLDERS, "epoch"):
        place.tidy(folder)


def _visible_now(place: StorePlace, without: Collection[str]) -> Visible:
    names = [name for name in list_names(place) if name.path not in without]
    claims = list_epochs(place)
    if claims:
        _refuse_emptied(place, {n.epoch for n in names} - {claim.epoch for claim in claims}, claims[0].epoch)
    shown = visible(names, {claim.epoch: claim.start_seq for claim in claims})
    # What a writer has on its disk may not be uploaded yet.
    ends = () if place.far or without else _lost_ends(claims, shown.next_seq)
    return replace(shown, ends=ends) if ends else shown


def _refuse_emptied(place: StorePlace, unknown: Collection[int], oldest: int) -> None:
    """Raise `StoreRefused` for the claim of a writer that has committed, and so had filled it in, but which is empty now."""
    for epoch in unknown:
        key = f"epoch/{epoch:04d}.json"
        if epoch > oldest and place.exists(key):
            raise _damaged_claim(place, key, ValueError("it is empty"))


def _lost_ends(claims: Sequence[EpochClaim], next_seq: int) -> tuple[tuple[int, int], ...]:
    """Commits [lo, hi) that there were when a writer began or was closed, and that were gone from the end when the next one came.

    Retention leaves the last segment alone, so that a stream never becomes shorter by itself.
    """
    after = [*(claim.start_seq for claim in claims[1:]), next_seq]
    return tuple(
        (seq, claim.reached) for claim, seq in zip(claims, after, strict=False) if seq < claim.reached
    )


@lru_cache(maxsize=4096)
def _read_claim(place: StorePlace, key: str, stamp: Stamp) -> EpochClaim | None:
    epoch = int(key.rpartition("/")[2].removesuffix(".json"))
    try:
        document = parsed_json(place.read(key) or b"null")
        if document is None:
            return None
        if "crc32" in document:  # earlier versions wrote none
            if document.pop("crc32") != _checksum(document):
                raise ValueError("it has another checksum than it was written with")
            if document["epoch"] != epoch:
                raise ValueError(f"it is that of writer {document['epoch']}")
        end = document.get("end_seq")
        claim = EpochClaim(
            epoch,
            int(document["start_seq"]),
            str(document["host"]),
            int(document["pid"]),
            end if end is None else int(end),
        )
        if not 0 <= claim.start_seq <= claim.reached < _MOST_COMMITS:
            raise ValueError(f"it counts {claim.reached} commits")
        return claim
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _damaged_claim(place, key, error) from error


def _damaged_claim(place: StorePlace, key: str, error: Exception) -> StoreRefused:
    return StoreRefused(
        f"{place.where}/{key} is damaged ({error}), which tells from where on its writer's commits count: restore it "
        "from a copy, or delete it if only one program at a time has ever written this stream"
    )


def _checksum(told: Mapping[str, object]) -> int:
    return zlib.crc32(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())


def _claim(place: StorePlace, key: str, stamp: Stamp) -> EpochClaim | None:
    try:
        return _read_claim(place, key, stamp) if stamp.size else None
    except FileNotFoundError:
        return None


def lost_spans(shown: Visible) -> list[TimeSpan]:
    """Wall ns between the neighbours of each missing segment; of one at the end no more than a moment is known."""
    spans = []
    for lo, hi in shown.holes:
        before = next(s for s in shown.segments if s.hi == lo)
        after = next(s for s in shown.segments if s.lo == hi)
        spans.append(TimeSpan(before.t_max, max(before.t_max, after.t_min)))
    for lo, _ in shown.ends:
        first = max((s.t_max for s in shown.segments if s.lo < lo), default=None)
        last = min((s.t_min for s in shown.segments if s.lo >= lo), default=first)
        if last is not None:
            first = last if first is None else first
            spans.append(TimeSpan(first, max(first, last)))
    return spans
