"""Small real videos for the tests, encoded with H.264 through PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def picture(index: int, width: int, height: int) -> np.ndarray:
    """A textured background with a red square that moves right; (H, W, 3) uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    base = ((rows * 3 + columns * 2) % 128 + 40).astype(np.uint8)
    rgb = np.stack([base, base, np.full_like(base, 90)], axis=-1)
    left = (index * 2) % max(1, width - width // 5)
    rgb[height // 3 : 2 * height // 3, left : left + width // 5] = (220, 30, 30)
    return rgb


def write_video(
    path: Path,
    *,
    frames: int = 0,
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 12800),
    width: int = 160,
    height: int = 96,
    bframes: int = 2,
    gop: int = 12,
    faststart: bool = False,
    creation_time: str | None = None,
    rotation: int = 0,
) -> Path:
    """Encode `frames` pictures at 25 a second, or one picture for each time stamp in `pts` (ticks of `time_base`)."""
    stamps = list(pts) if pts is not None else [index * 512 for index in range(frames)]
    base = time_base if pts is not None else Fraction(1, 12800)
    options = {"movflags": "+faststart"} if faststart else {}
    if path.suffix == ".mp4":
        options["video_track_timescale"] = str(base.denominator)
    with av.open(str(path), "w", options=options) as container:
        if creation_time:
            container.metadata["creation_time"] = creation_time
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.options = {
            "g": str(gop),
            "bf": str(bframes),
            "preset": "ultrafast",
            "threads": "1",
        }
        if rotation:
            stream.set_display_rotation(rotation)
        for index, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
