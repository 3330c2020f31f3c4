"""Image files as a stream: a directory, a glob, or one picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipeline.core.errors import SourceRefused
from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import Gap, GapReason, ResumePoint
from pipeline.sources.identity import images_fingerprint
from pipeline.sources.picture import DecodedFrame, from_array
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class ImageSequence:
    """Pictures in natural name order (`img2` before `img10`), `interval_ns` apart.

    Pictures carry no clock: the first one stands at `start_ns`, else at its modification time. A file that cannot be
    decoded is skipped, counted and reported as a `Gap` (GapReason.CORRUPT). Raises `SourceRefused` when nothing can be read.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        stream: str,
        address: str,
        interval_ns: int,
        start_ns: int | None = None,
    ) -> None:
        assert interval_ns > 0
        self._paths = sorted(paths, key=_natural_key)
        if not self._paths:
            raise SourceRefused(f"{address}: no images found; supported: {', '.join(sorted(IMAGE_SUFFIXES))}")
        self._interval_ns = interval_ns
        first = next((image for path in self._paths if (image := _read(path)) is not None), None)
        if first is None:
            raise SourceRefused(
                f"{address}: none of its {len(self._paths)} images can be decoded; check the files"
            )
        self._info = SourceInfo(
            stream=stream,
            address=address,
            kind=SourceKind.IMAGES,
            width=int(first.shape[1]),
            height=int(first.shape[0]),
            start_wall_ns=self._paths[0].stat().st_mtime_ns if start_ns is None else start_ns,
            fingerprint=images_fingerprint(self._paths),
            duration_ns=interval_ns * len(self._paths),
            frames=len(self._paths),
            nominal_fps=1e9 / interval_ns,
        )
        self._start = 0
        self._frames = 0
        self._corrupt = 0

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(frames=self._frames, corrupt=self._corrupt)

    def resume_after(self, point: ResumePoint) -> None:
        self._start = point.frame + 1

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[DecodedFrame | Gap]:
        for index in range(self._start, len(self._paths)):
            pts_ns = index * self._interval_ns
            time = FrameTime(pts_ns, self._info.start_wall_ns + pts_ns, 0, ClockSource.FILE)
            rgb = _read(self._paths[index])
            if rgb is None:
                self._corrupt += 1
                yield Gap(time.wall_ns, time.wall_ns + self._interval_ns, GapReason.CORRUPT, 1)
                continue
            self._frames += 1
            yield from_array(self._info.stream, index, time, rgb)


def image_paths(directory: Path) -> list[Path]:
    """The image files directly inside `directory`."""
    return [path for path in directory.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def _natural_key(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part
    ]


def _read(path: Path) -> np.ndarray | None:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(data):
        return None
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return None if bgr is None else np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
