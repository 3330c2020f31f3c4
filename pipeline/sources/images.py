"""Picture files as a stream: a directory, a glob, one picture, or the pages of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from pipeline.core.clock import NS
from pipeline.core.errors import SourceRefused
from pipeline.core.frame import ClockSource, FrameTime
from pipeline.core.records import Gap, GapReason, ResumePoint
from pipeline.sources.container import MOST_MOVING_PIXELS
from pipeline.sources.deep_pixels import ValueRange, value_range
from pipeline.sources.geometry import fitted
from pipeline.sources.identity import images_fingerprint
from pipeline.sources.picture import DecodedFrame, from_array
from pipeline.sources.picture_files import Page, read_page, read_pages
from pipeline.sources.source import SourceCounts, SourceInfo, SourceKind
from pipeline.sources.standing import STANDS_NS
from sca.picture_size import MOST_PIXELS, says_it_is

# Of deep pictures, so many are looked at for the range of their values.
_SAMPLED = 16


class ImageSequence:
    """Pages in the order given, each for as long as its file says, else for `interval_ns`.

    Pictures carry no clock: the first one stands at `start_ns`, else at its modification time. One that cannot be
    decoded is skipped, counted and reported as a `Gap` (GapReason.CORRUPT). Pixels of more than 8 bits are scaled by one range
    for all, which `SourceInfo.notices` tells. Raises `SourceRefused` when nothing can be read.
    """

    def __init__(
        self,
        pages: Sequence[Page],
        *,
        stream: str,
        address: str,
        interval_ns: int,
        start_ns: int | None = None,
    ) -> None:
        assert interval_ns > 0
        if not pages:
            raise SourceRefused(f"{address}: no pictures found; check the path")
        self._pages = list(pages)
        lengths = [interval_ns if page.lasts_ns is None else page.lasts_ns for page in self._pages]
        self._starts = list(accumulate(lengths, initial=0))
        first = next((pixels for pixels in read_pages(self._pages) if pixels is not None), None)
        if first is None:
            raise SourceRefused(_undecodable(address, self._pages))
        self._range = self._value_range(first)
        scaled = () if self._range is None else (f"pixels of {first.dtype}: {self._range.text()}",)
        self._info = SourceInfo(
            stream=stream,
            address=address,
            kind=SourceKind.IMAGES,
            width=int(first.shape[1]),
            height=int(first.shape[0]),
            start_wall_ns=self._pages[0].path.stat().st_mtime_ns if start_ns is None else start_ns,
            fingerprint=images_fingerprint(list(dict.fromkeys(page.path for page in self._pages))),
            duration_ns=self._starts[-1],
            frames=len(self._pages),
            nominal_fps=NS * len(self._pages) / self._starts[-1],
            notices=scaled,
        )
        self._start = 0
        self._after_ns = -1
        self._size_now = (self._info.width, self._info.height)
        self._frames = 0
        self._corrupt = 0

    @property
    def info(self) -> SourceInfo:
        return self._info

    @property
    def counts(self) -> SourceCounts:
        return SourceCounts(frames=self._frames, corrupt=self._corrupt)

    @property
    def resumed_at(self) -> DecodedFrame | None:
        known = read_page(self._pages[self._start - 1]) if 0 < self._start <= len(self._pages) else None
        return None if known is None else self._frame(self._start - 1, known)

    def resume_after(self, point: ResumePoint) -> None:
        self._start, self._after_ns = point.frame + 1, point.pts_ns

    def close(self) -> None:
        pass

    def __iter__(self) -> Iterator[DecodedFrame | Gap]:
        pictures = read_pages(self._pages[self._start :])
        for index, pixels in enumerate(pictures, self._start):
            pts_ns, end_ns = self._starts[index : index + 2]
            wall_ns = self._info.start_wall_ns
            if pixels is None:
                self._corrupt += 1
                yield Gap(wall_ns + pts_ns, wall_ns + end_ns, GapReason.CORRUPT, 1)
                continue
            yield from self._resized(wall_ns + pts_ns, pixels)
            self._frames += 1
            frame = self._frame(index, pixels)
            if pts_ns <= self._after_ns:
                # Its folder has grown: the last picture was seen until its end, where this one begins.
                frame.time = replace(
                    frame.time, pts_ns=self._after_ns + 1, wall_ns=wall_ns + self._after_ns + 1
                )
            yield frame

    def _frame(self, index: int, pixels: np.ndarray) -> DecodedFrame:
        pts_ns, end_ns = self._starts[index : index + 2]
        time = FrameTime(pts_ns, self._info.start_wall_ns + pts_ns, 0, ClockSource.FILE)
        rgb = fitted(self._eight_bits(pixels), (self._info.width, self._info.height))
        frame = from_array(self._info.stream, index, time, rgb)
        frame.lasts_ns = end_ns - pts_ns
        frame.photo = frame.lasts_ns >= STANDS_NS
        return frame

    def _resized(self, wall_ns: int, pixels: np.ndarray) -> Iterator[Gap]:
        """Say where pictures begin to have another size: they are fitted into that of the first one."""
        size = (int(pixels.shape[1]), int(pixels.shape[0]))
        if size != self._size_now:
            self._size_now = size
            yield Gap(wall_ns, wall_ns, GapReason.RESIZED, 0)

    def _value_range(self, first: np.ndarray) -> ValueRange | None:
        if first.dtype == np.uint8:
            return None
        step = max(1, len(self._pages) // _SAMPLED)
        sampled = (read_page(page) for page in self._pages[::step])
        return value_range(pixels for pixels in sampled if pixels is not None)

    def _eight_bits(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype == np.uint8:
            return pixels
        # A deep picture among others that are not has a range of its own.
        own = self._range or value_range([pixels])
        assert own is not None
        return own.to_eight_bits(pixels)


def _undecodable(address: str, pages: Sequence[Page]) -> str:
    size = says_it_is(pages[0].path)
    if pages[0].lasts_ns is not None and size is not None and size[0] * size[1] > MOST_MOVING_PIXELS:
        return f"{address}: moving pictures of more than {MOST_MOVING_PIXELS // 10**6} megapixels; scale them down"
    if len(pages) > 1:
        return f"{address}: none of its {len(pages)} pictures can be decoded; check the files"
    if size is not None and size[0] * size[1] > MOST_PIXELS:
        return f"{address}: a picture of more than {MOST_PIXELS // 10**6} megapixels; scale it down, or cut it into several"
    if pages[0].path.suffix.lower() in (".heic", ".heif"):
        return f"{address}: FFmpeg does not put the tiles of a HEIC together; convert it to JPEG or PNG"
    return f"{address}: this picture cannot be decoded; check the file, or convert it to JPEG or PNG"
