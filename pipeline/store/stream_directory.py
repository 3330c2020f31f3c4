"""The directory of one stream: which segments and epochs lie in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from pipeline.core.clock import TimeSpan
from pipeline.store.place import Stamp, StorePlace
from pipeline.store.segment_name import SegmentName, Visible, visible

FOLDERS = ("hot", "day")


@dataclass(frozen=True, slots=True)
class EpochClaim:
    """A writer's claim on the stream: it commits from `start_seq` on. Written once, never changed."""

    epoch: int
    start_seq: int
    host: str
    pid: int

    def document(self) -> bytes:
        return json.dumps({"start_seq": self.start_seq, "host": self.host, "pid": self.pid}).encode()


def list_names(place: StorePlace) -> list[SegmentName]:
    """Every segment file, superseded ones included.

    `hot` is listed before `day`: an archive is in place before what it replaces goes away.
    """
    return [
        name
        for folder in FOLDERS
        for entry in place.list(folder)
        if (name := SegmentName.parse(folder, entry)) is not None
    ]


def list_epochs(place: StorePlace) -> list[EpochClaim]:
    """Claims in order. One that was made but not yet filled in (its writer is still starting) is left out."""
    claims = [_claim(place, f"epoch/{entry}") for entry in place.list("epoch") if entry.endswith(".json")]
    return sorted((claim for claim in claims if claim is not None), key=lambda claim: claim.epoch)


def newest_epoch(place: StorePlace) -> int:
    """Number of the newest claim, filled in or not; -1 without any."""
    entries = [entry for entry in place.list("epoch") if entry.endswith(".json")]
    return max((int(entry.removesuffix(".json")) for entry in entries), default=-1)


def list_visible(place: StorePlace) -> Visible:
    """The segments a reader counts.

    A directory changes while it is listed, so a commit may be missed where a later one is seen. A commit missing in
    a second listing as well is really lost, and named in `holes`.
    """
    shown = _visible_now(place)
    return _visible_now(place) if shown.holes else shown


def remove_temporaries(place: StorePlace) -> None:
    """Delete what a killed writer left half written. Only for who holds the stream's lock."""
    for folder in (*FOLDERS, "epoch"):
        place.tidy(folder)


def _visible_now(place: StorePlace) -> Visible:
    names = list_names(place)
    return visible(names, {claim.epoch: claim.start_seq for claim in list_epochs(place)})


@lru_cache(maxsize=4096)
def _read_claim(place: StorePlace, key: str, stamp: Stamp) -> EpochClaim | None:
    document = json.loads(place.read(key) or b"null")
    epoch = int(key.rpartition("/")[2].removesuffix(".json"))
    return (
        None
        if document is None
        else EpochClaim(epoch, document["start_seq"], document["host"], document["pid"])
    )


def _claim(place: StorePlace, key: str) -> EpochClaim | None:
    stamp = place.stamp(key)
    return _read_claim(place, key, stamp) if stamp.size else None


def lost_spans(shown: Visible) -> list[TimeSpan]:
    """Wall ns between the neighbours of each missing segment."""
    spans = []
    for lo, hi in shown.holes:
        before = next(s for s in shown.segments if s.hi == lo)
        after = next(s for s in shown.segments if s.lo == hi)
        spans.append(TimeSpan(before.t_max, max(before.t_max, after.t_min)))
    return spans
