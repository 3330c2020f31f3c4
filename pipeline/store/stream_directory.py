"""The directory of one stream: which segments and epochs lie in it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.core.clock import TimeSpan
from pipeline.store.durable_files import TEMPORARY
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


def list_names(directory: Path) -> list[SegmentName]:
    """Every segment file, superseded ones included.

    `hot` is listed before `day`: an archive is in place before what it replaces goes away.
    """
    names = []
    for folder in FOLDERS:
        try:
            entries = os.listdir(directory / folder)
        except FileNotFoundError:
            continue
        names += [name for entry in entries if (name := SegmentName.parse(folder, entry)) is not None]
    return names


def list_epochs(directory: Path) -> list[EpochClaim]:
    """Claims in order. One that was made but not yet filled in (its writer is still starting) is left out."""
    try:
        entries = os.listdir(directory / "epoch")
    except FileNotFoundError:
        return []
    claims = [_claim(str(directory / "epoch" / entry)) for entry in entries if entry.endswith(".json")]
    return sorted((claim for claim in claims if claim is not None), key=lambda claim: claim.epoch)


def newest_epoch(directory: Path) -> int:
    """Number of the newest claim, filled in or not; -1 without any."""
    entries = [entry for entry in os.listdir(directory / "epoch") if entry.endswith(".json")]
    return max((int(entry.removesuffix(".json")) for entry in entries), default=-1)


def list_visible(directory: Path) -> Visible:
    """The segments a reader counts.

    A directory changes while it is listed, so a commit may be missed where a later one is seen. A commit missing in
    a second listing as well is really lost, and named in `holes`.
    """
    shown = _visible_now(directory)
    return _visible_now(directory) if shown.holes else shown


def remove_temporaries(directory: Path) -> None:
    """Delete what a killed writer left half written. Only for who holds the stream's lock."""
    for folder in (*FOLDERS, "epoch"):
        for entry in os.scandir(directory / folder):
            if TEMPORARY not in entry.name:
                continue
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _visible_now(directory: Path) -> Visible:
    names = list_names(directory)
    return visible(names, {claim.epoch: claim.start_seq for claim in list_epochs(directory)})


@lru_cache(maxsize=4096)
def _read_claim(path: str, size: int, modified_ns: int) -> EpochClaim | None:
    document = json.loads(Path(path).read_bytes() or b"null")
    epoch = int(Path(path).stem)
    return (
        None
        if document is None
        else EpochClaim(epoch, document["start_seq"], document["host"], document["pid"])
    )


def _claim(path: str) -> EpochClaim | None:
    stat = os.stat(path)
    return _read_claim(path, stat.st_size, stat.st_mtime_ns) if stat.st_size else None


def lost_spans(shown: Visible) -> list[TimeSpan]:
    """Wall ns between the neighbours of each missing segment."""
    spans = []
    for lo, hi in shown.holes:
        before = next(s for s in shown.segments if s.hi == lo)
        after = next(s for s in shown.segments if s.lo == hi)
        spans.append(TimeSpan(before.t_max, max(before.t_max, after.t_min)))
    return spans
