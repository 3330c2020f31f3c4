"""Reading picture files: one page after the other, in their full depth, upright."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from av.error import FFmpegError
from PIL import Image

from pipeline.core.errors import SourceRefused
from pipeline.sources.container import MOST_MOVING_PIXELS, bounded, local_container
from sca.picture_size import can_be_decoded

# What OpenCV cannot read, FFmpeg may: it is no error yet, and OpenCV would write it to stderr past our logs.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# Depth is kept, and the turn that a camera noted is applied.
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_BIG_TIFF = 43
_LEAST_PAGE_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class Page:
    """A picture of a file. `number`: which, from 0. `lasts_ns`: how long it is shown; None where the file does not say."""

    path: Path
    number: int = 0
    lasts_ns: int | None = None


MOST_PAGES = 10_000
"""Of a TIFF or WebP: a page is found by going through all those before it."""


def has_more_pages(path: Path) -> bool:
    """Whether a picture file has more than one page or frame; they are not counted, which may take minutes."""
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # whatever a damaged head makes of the library: who decodes it will say what is wrong
        return False


def pages_of(path: Path) -> list[Page]:
    """The pages or frames of a TIFF or WebP, in order. Raises `SourceRefused` for more than `MOST_PAGES`."""
    with Image.open(path) as image:
        count = _tiff_pages(path) if image.format == "TIFF" else getattr(image, "n_frames", 1)
        if count > MOST_PAGES:
            raise SourceRefused(f"{path}: more than {MOST_PAGES} pages; cut it into several files")
        lengths = _webp_lengths(path) if image.format == "WEBP" else []
    return [Page(path, number, lengths[number] if number < len(lengths) else None) for number in range(count)]


def _tiff_pages(path: Path) -> int:
    """Directories of a TIFF or BigTIFF, as far as they lie in the file and form no circle; `MOST_PAGES` + 1 for more than that.

    Pillow looks through all pages that it knows at each further one.
    """
    seen: set[int] = set()
    with path.open("rb") as file:
        head = file.read(16)
        order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
        big = int.from_bytes(head[2:4], order) == _BIG_TIFF
        counted, entry, pointer = (8, 20, 8) if big else (2, 12, 4)
        at = int.from_bytes(head[8:16] if big else head[4:8], order)
        while at and at not in seen and len(seen) <= MOST_PAGES:
            file.seek(at)
            count = file.read(counted)
            if len(count) < counted:
                break
            seen.add(at)
            file.seek(int.from_bytes(count, order) * entry, os.SEEK_CUR)
            at = int.from_bytes(file.read(pointer), order)
    return max(len(seen), 1)


def _webp_lengths(path: Path) -> list[int]:
    """How long each frame of an animated WebP is shown, in ns, from its ANMF chunks (Pillow tells it after decoding)."""
    lengths = []
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            after = file.tell() + size + size % 2
            if name == b"ANMF":
                # Players show a frame of no length for a moment.
                duration_ms = int.from_bytes(file.read(15)[12:], "little")
                lengths.append(max(duration_ms * 1_000_000, _LEAST_PAGE_NS))
            file.seek(after)
    return lengths


def read_pages(pages: Sequence[Page]) -> Iterator[np.ndarray | None]:
    """RGB pixels (H, W, 3) of each page, of any depth; None where it cannot be decoded."""
    animation: Image.Image | None = None
    try:
        for page in pages:
            if page.lasts_ns is None:
                yield read_page(page)
                continue
            if not can_be_decoded(page.path, MOST_MOVING_PIXELS):
                yield None
                continue
            # Each frame builds on those before it, so the file stays open.
            if animation is None or animation.filename != str(page.path):  # type: ignore[attr-defined]
                animation = Image.open(page.path)
            try:
                animation.seek(page.number)
                yield np.asarray(animation.convert("RGB"))
            except (OSError, EOFError, ValueError):
                yield None
    finally:
        if animation is not None:
            animation.close()


def read_page(page: Page) -> np.ndarray | None:
    """RGB pixels (H, W, 3) of one page, of any depth; None where nobody can decode it. OpenCV first, then FFmpeg."""
    if not can_be_decoded(page.path):
        return None
    try:
        data = np.memmap(page.path, np.uint8, "r")
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None
    try:
        if page.number:
            return _rgb(cv2.imdecodemulti(data, _FLAGS, range=(page.number, page.number + 1))[1])
        pixels = _rgb((cv2.imdecode(data, _FLAGS),))
        if pixels is None:  # grey floats in a TIFF come only as they are
            pixels = _rgb((cv2.imdecode(data, cv2.IMREAD_UNCHANGED),))
    except cv2.error:
        pixels = None
    if pixels is None:
        pixels = _through_ffmpeg(page.path)
    return _icon(page.path) if pixels is None else pixels


def _icon(path: Path) -> np.ndarray | None:
    """The largest picture of an icon, which is one picture in several sizes."""
    try:
        with Image.open(path, formats=("ICO", "CUR", "ICNS")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _rgb(found: Sequence[np.ndarray | None]) -> np.ndarray | None:
    if not found or found[0] is None:
        return None
    pixels = found[0]
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, 2::-1]) if pixels.shape[2] >= 3 else None


def _through_ffmpeg(path: Path) -> np.ndarray | None:
    try:
        with local_container(path) as container:
            # Several are the tiles of a HEIC, which FFmpeg does not put together.
            if len(container.streams.video) != 1:
                return None
            picture = next(container.decode(bounded(container.streams.video[0])), None)
            if picture is None:
                return None
            deep = max(component.bits for component in picture.format.components) > 8
            return picture.to_ndarray(format="rgb48le" if deep else "rgb24")
    except (FFmpegError, OSError, ValueError):
        return None
