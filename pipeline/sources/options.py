"""How sources are opened."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.options import Options
from pipeline.restarts import RestartPolicy


class SourceOptions(Options):
    """How sources are opened. Durations in seconds."""

    image_interval_s: float = Field(
        default=1.0, gt=0, description="time between two pictures of an image directory"
    )
    decoder: Literal["cpu", "nvdec"] = Field(
        default="cpu", description="nvdec: video files are decoded on an NVIDIA GPU"
    )
    rtsp_transport: Literal["tcp", "udp"] = Field(
        default="tcp", description="udp loses packets on a busy network, but a camera may know only that"
    )
    open_timeout_s: float = Field(default=10.0, gt=0, description="for a camera to answer")
    stall_timeout_s: float = Field(
        default=5.0, gt=0, description="without data for so long, a camera is connected to again"
    )
    reconnect: RestartPolicy = Field(
        default=RestartPolicy.ALWAYS,
        description="never, on-error, or always: also when the sender ends the stream",
    )
    max_backoff_s: float = Field(
        default=30.0, gt=0, description="longest pause between two attempts to connect"
    )
    max_clock_error_s: float = Field(
        default=10.0,
        ge=0,
        description="a camera's clock that is farther off than this is not used; 0: never use it",
    )
