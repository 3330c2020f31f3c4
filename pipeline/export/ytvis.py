"""JSON of tracks as YouTube-VIS has it (https://youtube-vos.org/dataset/vis): a video each stream, a list over its keyframes each track."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.core.clock import iso_text
from pipeline.core.errors import UserError
from pipeline.core.shown_text import json_text
from pipeline.export.full_masks import full_runs
from pipeline.query.observed import ObservedRow

MOST_CELLS = 20_000_000
"""Of tracks times keyframes of a video: each is written, and most say that the track is not there."""


class YouTubeVis:
    """`videos` with their keyframes, `categories` (each text is one), `annotations` with `bboxes` and, with masks, `segmentations`
    (run lengths over the whole picture, as numbers) and `areas`, one entry a keyframe, null where the track is not in it.

    A track is of the category that it was called with the highest score; all that it was called is in `captions`. Rows wait in a
    temporary file, since a track's entries stand together. Raises `UserError` where tracks times keyframes are too many.
    """

    one_stream = False
    holds_masks = True

    def write_observed(self, rows: Iterable[ObservedRow], out: BinaryIO) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sorted_rows = _SortedRows(Path(folder) / "rows.sqlite")
            try:
                sorted_rows.take(rows)
                out.write(b'{"info": {"description": "tracks"}, "videos": [')
                _write_list(out, sorted_rows.videos())
                out.write(b'],\n"annotations": [')
                _write_list(out, sorted_rows.annotations())
                named = [{"id": number, "name": text} for text, number in sorted_rows.categories.items()]
                out.write(b'],\n"categories": ' + json_text(named).encode() + b"}\n")
            finally:
                sorted_rows.close()


def _write_list(out: BinaryIO, documents: Iterable[object]) -> None:
    for number, document in enumerate(documents):
        out.write((",\n" if number else "\n").encode() + json_text(document).encode())


class _SortedRows:
    """Rows on disk, to be read by track."""

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path)
        self._base.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE seen (video INTEGER, track INTEGER, at INTEGER, box TEXT, mask TEXT, area REAL);"
            "CREATE TABLE frame (video INTEGER, at INTEGER, name TEXT);"
            "CREATE TABLE called (video INTEGER, track INTEGER, text TEXT, score REAL, PRIMARY KEY (video, track, text));"
        )
        self.categories: dict[str, int] = {}
        self._streams: dict[str, tuple[int, int, int]] = {}
        self._lengths: dict[int, int] = {}
        self._masks = False

    def close(self) -> None:
        self._base.close()

    def take(self, rows: Iterable[ObservedRow]) -> None:
        moment: tuple[str, int] | None = None
        for row in rows:
            if row.stream not in self._streams:
                self._streams[row.stream] = (len(self._streams) + 1, *row.picture)
            video = self._streams[row.stream][0]
            if (row.stream, row.t_ns) != moment:
                moment = (row.stream, row.t_ns)
                at = self._lengths.get(video, 0)
                self._lengths[video] = at + 1
                name = f"{row.stream}/{row.t_ns}"
                self._base.execute("INSERT INTO frame VALUES (?, ?, ?)", (video, at, name))
            x0, y0, x1, y1 = row.box
            box = json.dumps([round(edge, 2) for edge in (x0, y0, x1 - x0, y1 - y0)])
            mask, area = None, (x1 - x0) * (y1 - y0)
            if row.mask is not None:
                self._masks = True
                drawn, area = full_runs(row.mask)
                mask = json_text(drawn)
            place = self._lengths[video] - 1
            self._base.execute(
                "INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?)", (video, row.track, place, box, mask, area)
            )
            self._base.execute(
                "INSERT INTO called VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET score = max(score, excluded.score)",
                (video, row.track, row.text, row.text_score),
            )
            self.categories.setdefault(row.text, len(self.categories) + 1)
        self._base.execute("CREATE INDEX by_track ON seen (video, track, at)")
        tracks = dict(self._base.execute("SELECT video, count(DISTINCT track) FROM seen GROUP BY video"))
        cells = sum(self._lengths[video] * count for video, count in tracks.items())
        if cells > MOST_CELLS:
            raise UserError(
                f"ytvis has an entry for each of {sum(tracks.values())} tracks in each of {sum(self._lengths.values())} keyframes, "
                f"which are {cells} and more than {MOST_CELLS}: choose less time with --from and --to, or fewer captions"
            )

    def videos(self) -> Iterator[dict[str, object]]:
        for stream, (video, height, width) in self._streams.items():
            names = [
                name
                for (name,) in self._base.execute(
                    "SELECT name FROM frame WHERE video = ? ORDER BY at", (video,)
                )
            ]
            yield {
                "id": video, "name": stream, "height": height, "width": width, "length": len(names), "file_names": names,
                "dates_captured": [iso_text(int(name.rpartition("/")[2])) for name in names],
            }  # fmt: skip

    def annotations(self) -> Iterator[dict[str, object]]:
        sizes = {video: (height, width) for video, height, width in self._streams.values()}
        tracks = self._base.execute("SELECT DISTINCT video, track FROM seen ORDER BY video, track").fetchall()
        for number, (video, track) in enumerate(tracks, 1):
            length = self._lengths[video]
            boxes: list[object] = [None] * length
            masks: list[object] = [None] * length
            areas: list[float | None] = [None] * length
            for at, box, mask, area in self._base.execute(
                "SELECT at, box, mask, area FROM seen WHERE video = ? AND track = ? ORDER BY at",
                (video, track),
            ):
                boxes[at], areas[at] = json.loads(box), round(area, 2)
                masks[at] = None if mask is None else json.loads(mask)
            called = self._base.execute(
                "SELECT text, score FROM called WHERE video = ? AND track = ? ORDER BY score DESC, text",
                (video, track),
            ).fetchall()
            height, width = sizes[video]
            annotation: dict[str, object] = {
                "id": number, "video_id": video, "category_id": self.categories[called[0][0]], "track_id": track,
                "captions": [text for text, _ in called], "score": round(called[0][1], 4), "iscrowd": 0,
                "height": height, "width": width, "length": length, "bboxes": boxes, "areas": areas,
            }  # fmt: skip
            if self._masks:
                annotation["segmentations"] = masks
            yield annotation
