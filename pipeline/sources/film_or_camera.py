"""What stands behind a web address, a film or a camera: a pure choice from what server and container say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AddressKind(StrEnum):
    """FILM: it has an end, is read once and whole. CAMERA: it has none, is watched. UNTOLD: the container must say."""

    FILM = "film"
    CAMERA = "camera"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class ServerSays:
    """The head of an answer. `content_type`: in lower case, without parameters. `size`: bytes of the whole, where told.

    `head`: the first bytes of the content, at least 16 where there are as many.
    """

    content_type: str
    size: int | None
    head: bytes


@dataclass(frozen=True, slots=True)
class ContainerSays:
    """What FFmpeg found. `name`: of its demuxer. `duration`: how long it lasts, None or 0 where nothing tells."""

    name: str
    duration: int | None


class FeedTiming(StrEnum):
    """What a camera's time stamps are worth. STAMPED: its own, as they come. INVENTED: FFmpeg counts pictures at a rate
    that nobody stated. SEGMENTED: its own, but it is delivered seconds at a time."""

    STAMPED = "stamped"
    INVENTED = "invented"
    SEGMENTED = "segmented"


_PLAYLIST_TYPES = {
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "audio/mpegurl",
    "audio/x-mpegurl",
    "application/dash+xml",
}
_SEGMENTED = {"hls", "dash"}
# Elementary streams and runs of pictures: no time stamps in them.
_WITHOUT_CLOCK = {"mpjpeg", "mjpeg", "h264", "hevc", "vvc", "obu", "m4v", "mpegvideo", "h263", "image2"}


def by_server(said: ServerSays) -> AddressKind:
    """What the server's answer settles.

    Content of a known size has an end. A playlist has one too, and says nothing: only its segments end. A single picture
    is a camera's latest, to be asked for again.
    """
    if is_playlist(said):
        return AddressKind.UNTOLD
    if said.content_type.startswith(("multipart/", "image/")):
        return AddressKind.CAMERA
    return AddressKind.UNTOLD if said.size is None else AddressKind.FILM


def by_container(said: ContainerSays) -> AddressKind:
    """What the container settles where the server did not: what knows its duration has an end.

    A playlist of HLS knows it from `#EXT-X-ENDLIST` on, a manifest of DASH when it is static.
    """
    ends = said.duration is not None and said.duration > 0
    return AddressKind.FILM if ends and timing(said.name) is not FeedTiming.INVENTED else AddressKind.CAMERA


def is_playlist(said: ServerSays) -> bool:
    """Whether it lists what is to be fetched: HLS or DASH."""
    text = said.head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return said.content_type in _PLAYLIST_TYPES or text.startswith(b"#EXTM3U") or is_dash(said)


def is_dash(said: ServerSays) -> bool:
    """Whether it is a manifest of DASH."""
    manifest = said.head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") and b"<MPD" in said.head
    return manifest or said.content_type == "application/dash+xml"


def timing(name: str) -> FeedTiming:
    """What the time stamps are worth that the demuxer `name` gives; names may be several, with commas."""
    names = set(name.split(","))
    if names & _SEGMENTED:
        return FeedTiming.SEGMENTED
    if names & _WITHOUT_CLOCK or any(one.endswith("_pipe") for one in names):
        return FeedTiming.INVENTED
    return FeedTiming.STAMPED
