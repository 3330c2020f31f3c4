"""Video decoding on the GPU: FFmpeg still demuxes and tells the time, NVDEC makes the pictures."""

from __future__ import annotations

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError

CPU, NVDEC = "cpu", "nvdec"


def hardware_decoder(name: str) -> HWAccel | None:
    """What `av.open` takes as `hwaccel`: None for the CPU.

    A stream that the GPU cannot decode (its codec, its size) is decoded on the CPU all the same. Raises `ValueError`
    where there is no GPU that decodes.
    """
    if name == CPU:
        return None
    assert name == NVDEC, name
    if "cuda" not in hwdevices_available():
        raise ValueError(
            "sources.decoder=nvdec: this build of FFmpeg has no CUDA; install the PyAV wheel, or use cpu"
        )
    try:
        HWAccel("cuda").create(av.codec.Codec("h264", "r"))
    except (FFmpegError, OSError, RuntimeError, NotImplementedError):
        raise ValueError(
            "sources.decoder=nvdec: no NVIDIA GPU that decodes video is visible here; use cpu, or give the container "
            "the video capability (NVIDIA_DRIVER_CAPABILITIES=compute,video,utility)"
        ) from None
    return HWAccel("cuda", allow_software_fallback=True)
