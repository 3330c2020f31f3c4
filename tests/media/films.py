"""One small film of any container, codec and structure, and what it holds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.media.numbered import numbered

os.environ.setdefault("SVT_LOG", "1")

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder and what it can do. `reorders`: it knows B-frames. `intra`: every picture is a key picture."""

    encoder: str
    pixels: str = "yuv420p"
    reorders: bool = False
    intra: bool = False
    options: tuple[tuple[str, str], ...] = ()
    rates: tuple[int, ...] = (10, 25, 30)
    sizes: tuple[tuple[int, int], ...] = ((64, 48), (96, 64))
    exact: bool = True


CODECS = {
    "h264": Codec(
        "libx264", reorders=True, options=(("preset", "ultrafast"), ("threads", "1"), ("crf", "18"))
    ),
    "hevc": Codec(
        "libx265",
        reorders=True,
        options=(("preset", "ultrafast"), ("x265-params", "log-level=none:pools=1:frame-threads=1")),
    ),
    "mpeg1": Codec("mpeg1video", reorders=True, options=(("q", "3"),), rates=(25, 30)),
    "mpeg2": Codec("mpeg2video", reorders=True, options=(("q", "3"),), rates=(25, 30)),
    "mpeg4": Codec("mpeg4", reorders=True, options=(("q", "3"),)),
    "msmpeg4v2": Codec("msmpeg4v2"),
    "wmv2": Codec("wmv2"),
    "h263": Codec("h263", sizes=((128, 96), (176, 144)), rates=(30,)),
    "flv1": Codec("flv"),
    "vp8": Codec("libvpx", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    "vp9": Codec("libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    "av1": Codec(
        "libsvtav1",
        options=(("preset", "12"), ("crf", "5"), ("svtav1-params", "lp=1")),
        sizes=((64, 64), (96, 64)),
    ),
    "mjpeg": Codec("mjpeg", pixels="yuvj420p", intra=True),
    "prores": Codec("prores_ks", pixels="yuv422p10le", intra=True),
    "dnxhd": Codec(
        "dnxhd", pixels="yuv422p", intra=True, options=(("profile", "dnxhr_sq"),), sizes=((256, 120),)
    ),
    "dv": Codec("dvvideo", pixels="yuv420p", intra=True, rates=(25,), sizes=((720, 576),)),
    "ffv1": Codec("ffv1", pixels="yuv420p", intra=True),
    "huffyuv": Codec("huffyuv", pixels="yuv422p", intra=True),
    "png": Codec("png", pixels="rgb24", intra=True),
    "raw": Codec("rawvideo", pixels="yuv420p", intra=True),
    "gif": Codec("gif", pixels="rgb8", rates=(10, 25)),
    "apng": Codec("apng", pixels="rgb24"),
}


@dataclass(frozen=True, slots=True)
class Container:
    """A file format: FFmpeg's name of the muxer, the ending, and the codecs it carries.

    `stamped`: it stores when a picture is shown. `ticks`: its clock's ticks a second, where it is coarse.
    """

    muxer: str
    ending: str
    codecs: tuple[str, ...]
    stamped: bool = True
    sound: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    ticks: int | None = None
    rates: tuple[int, ...] | None = None


CONTAINERS = {
    "mp4": Container("mp4", ".mp4", ("h264", "hevc", "mpeg2", "mpeg4", "vp9", "av1", "mjpeg"), sound="aac"),
    "fmp4": Container(
        "mp4",
        ".mp4",
        ("h264", "hevc", "av1"),
        sound="aac",
        options=(("movflags", "frag_keyframe+empty_moov"),),
    ),
    "mov": Container("mov", ".mov", ("h264", "mpeg4", "mjpeg", "prores", "dnxhd", "png"), sound="aac"),
    "3gp": Container("3gp", ".3gp", ("h264", "mpeg4", "h263"), sound="aac"),
    "mkv": Container(
        "matroska",
        ".mkv",
        (
            "h264",
            "hevc",
            "mpeg1",
            "mpeg2",
            "mpeg4",
            "vp8",
            "vp9",
            "av1",
            "mjpeg",
            "prores",
            "ffv1",
        ),
        sound="aac",
        ticks=1000,
    ),
    "webm": Container("webm", ".webm", ("vp8", "vp9", "av1"), ticks=1000),
    "avi": Container(
        "avi",
        ".avi",
        ("h264", "mpeg2", "mpeg4", "msmpeg4v2", "mjpeg", "huffyuv", "ffv1", "raw", "vp8"),
        stamped=False,
        sound="mp2",
    ),
    "ts": Container("mpegts", ".ts", ("h264", "hevc", "mpeg1", "mpeg2", "mpeg4"), sound="mp2"),
    "m2ts": Container(
        "mpegts", ".m2ts", ("h264", "mpeg2"), sound="mp2", options=(("mpegts_m2ts_mode", "1"),)
    ),
    "mpg": Container("mpeg", ".mpg", ("mpeg1", "mpeg2"), sound="mp2"),
    "vob": Container("vob", ".vob", ("mpeg2",), sound="mp2"),
    "flv": Container("flv", ".flv", ("h264", "flv1"), ticks=1000),
    "mxf": Container("mxf", ".mxf", ("mpeg2", "h264", "dnxhd"), rates=(25, 30)),
    "ogg": Container("ogg", ".ogv", ("vp8",)),
    "nut": Container("nut", ".nut", ("h264", "mpeg4", "ffv1", "mjpeg"), sound="mp2"),
    "asf": Container("asf", ".wmv", ("wmv2", "msmpeg4v2"), sound="mp2", ticks=1000),
    "gif": Container("gif", ".gif", ("gif",), ticks=100),
    "apng": Container("apng", ".apng", ("apng",)),
    "dv": Container("dv", ".dv", ("dv",)),
    "h264": Container("h264", ".h264", ("h264",), stamped=False),
    "hevc": Container("hevc", ".hevc", ("hevc",), stamped=False),
    "m4v": Container("m4v", ".m4v", ("mpeg4",), stamped=False),
    "m2v": Container("mpeg2video", ".m2v", ("mpeg2",), stamped=False),
    "m1v": Container("mpeg1video", ".m1v", ("mpeg1",), stamped=False),
    "mjpeg": Container("mjpeg", ".mjpeg", ("mjpeg",), stamped=False),
    "ivf": Container("ivf", ".ivf", ("vp8", "vp9", "av1")),
    "y4m": Container("yuv4mpegpipe", ".y4m", ("raw",)),
}


@dataclass(frozen=True, slots=True)
class Film:
    """What to write: `count` numbered pictures from `first` on, `rate` a second.

    `bframes`, `gop`, `open_gop`, `fields`: the encoder's structure. `late_s`: when the first picture is shown;
    `sound`: whether a silent track runs from 0 to the end. `stamps`: ticks of `time_base`, instead of an even rate.
    """

    container: str = "mp4"
    codec: str = "h264"
    count: int = 24
    rate: int = 25
    gop: int = 12
    bframes: int = 0
    open_gop: bool = False
    fields: bool = False
    size: tuple[int, int] = (64, 48)
    first: int = 0
    late_s: Fraction = Fraction(0)
    sound: bool = False
    stamps: tuple[int, ...] | None = None
    time_base: Fraction | None = None
    aspect: Fraction | None = None
    tags: tuple[tuple[str, str], ...] = field(default=())

    @property
    def ending(self) -> str:
        return CONTAINERS[self.container].ending

    @property
    def times_ns(self) -> list[int]:
        """When each picture is shown, from the first one on."""
        if self.stamps is not None:
            base = self.base
            return [
                (stamp - min(self.stamps)) * base.numerator * NS // base.denominator for stamp in self.stamps
            ]
        return [index * NS // self.rate for index in range(self.count)]

    @property
    def base(self) -> Fraction:
        return self.time_base or Fraction(1, 90_000 if self.stamps is None else 1000)

    def but(self, **changes: object) -> Film:
        return replace(self, **changes)  # type: ignore[arg-type]


def write_film(film: Film, path: Path, draw: Callable[[int, int, int], np.ndarray] = numbered) -> Path:
    """Encode `film` to `path`. `draw`: (number, width, height) -> (height, width, 3) uint8."""
    container, codec = CONTAINERS[film.container], CODECS[film.codec]
    width, height = film.size
    with av.open(str(path), "w", format=container.muxer, options=dict(container.options)) as out:
        for key, value in film.tags:
            out.metadata[key] = value
        video = out.add_stream(codec.encoder, rate=film.rate)
        video.width, video.height, video.pix_fmt = width, height, codec.pixels
        context = video.codec_context
        if film.aspect is not None:
            context.sample_aspect_ratio = film.aspect
        if film.stamps is not None:
            video.time_base = context.time_base = film.base
        context.thread_count = 1
        context.options = _structure(film, codec)
        sound = (
            out.add_stream(container.sound, rate=48_000, layout="mono")
            if film.sound and container.sound
            else None
        )
        silence = _silence(film, sound) if sound is not None else []
        for index in range(film.count):
            frame = av.VideoFrame.from_ndarray(draw(film.first + index, width, height), format="rgb24")
            frame.pts, frame.time_base = _stamp(film, index)
            # The two tracks are interleaved, as recorders write them.
            while silence and silence[0].pts * silence[0].time_base <= frame.pts * frame.time_base:
                out.mux(silence.pop(0))
            for packet in video.encode(frame.reformat(format=codec.pixels, threads=1)):
                out.mux(packet)
        for packet in [*video.encode(None), *silence]:
            out.mux(packet)
    return path


def restamped(source: Path, target: Path, change: Callable[[int, av.Packet], None]) -> Path:
    """Copy a film's packets; `change(number, packet)` may alter their stamps, as no encoder would."""
    with av.open(str(source)) as given, av.open(str(target), "w") as out:
        video = given.streams.video[0]
        copied = out.add_stream_from_template(video)
        for number, packet in enumerate(packet for packet in given.demux(video) if packet.dts is not None):
            change(number, packet)
            packet.stream = copied
            out.mux(packet)
    return target


def _stamp(film: Film, index: int) -> tuple[int, Fraction]:
    if film.stamps is not None:
        return film.stamps[index], film.base
    base = Fraction(1, film.rate)
    return index + round(film.late_s / base), base


def _structure(film: Film, codec: Codec) -> dict[str, str]:
    options = dict(codec.options)
    if codec.intra:
        return options
    options["g"] = str(film.gop)
    if codec.reorders:
        options["bf"] = str(film.bframes)
    if codec.encoder == "libx264":
        more = ["scenecut=0", f"keyint={film.gop}", "min-keyint=1"] + (
            ["open-gop=1"] if film.open_gop else []
        )
        if film.fields:
            more.append("tff=1")
        options["x264-params"] = ":".join(more)
    elif codec.encoder == "libx265":
        more = [f"keyint={film.gop}", "min-keyint=1", f"bframes={film.bframes}", "scenecut=0"]
        more.append(f"open-gop={int(film.open_gop)}")
        options["x265-params"] = ":".join([options["x265-params"], *more])
    elif codec.encoder in ("mpeg1video", "mpeg2video", "mpeg4"):
        flags = "" if film.open_gop or not film.bframes else "+cgop"
        if film.fields and codec.encoder == "mpeg2video":
            flags += "+ildct+ilme"
        options["sc_threshold"] = "1000000000"
        if flags:
            options["flags"] = flags
    return options


def _silence(film: Film, sound: av.AudioStream) -> list[av.Packet]:
    seconds = film.late_s + Fraction(film.count, film.rate)
    packets: list[av.Packet] = []
    size = sound.codec_context.frame_size or 1152
    for at in range(0, int(seconds * 48_000), size):
        layout = sound.codec_context.layout.name
        form = sound.codec_context.format.name
        frame = av.AudioFrame(format=form, layout=layout, samples=size)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48_000, at, Fraction(1, 48_000)
        packets += sound.encode(frame)
    return packets + sound.encode(None)
