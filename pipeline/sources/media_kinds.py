"""Which files are films, which are pictures, and which are neither: by their endings, and by what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from av.error import FFmpegError
from av.stream import Disposition
from PIL import Image

from pipeline.sources.container import local_container


class MediaKind(StrEnum):
    """A picture stands still; one that moves or has several pages is a film, as OTHER is neither."""

    FILM = "film"
    PICTURE = "picture"
    PAGES = "pages"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Media:
    """What a file is. `reason`: why it is neither film nor picture."""

    kind: MediaKind
    reason: str = ""


FILM_SUFFIXES = frozenset(
    [
        ".3g2",
        ".3gp",
        ".amv",
        ".asf",
        ".avi",
        ".dav",
        ".divx",
        ".dv",
        ".evo",
        ".f4v",
        ".flv",
        ".gxf",
        ".h261",
        ".h263",
        ".h264",
        ".264",
        ".h265",
        ".265",
        ".hevc",
        ".h266",
        ".266",
        ".ifv",
        ".ismv",
        ".ivf",
        ".m1v",
        ".m2t",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mj2",
        ".mjpeg",
        ".mjpg",
        ".mk3d",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mpv",
        ".mts",
        ".mxf",
        ".nsv",
        ".nut",
        ".nuv",
        ".obu",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".roq",
        ".swf",
        ".tod",
        ".trp",
        ".ts",
        ".vc1",
        ".viv",
        ".vob",
        ".vro",
        ".webm",
        ".wmv",
        ".wtv",
        ".y4m",
    ]
)
"""Endings of files that hold moving pictures and nothing else; their content is not looked into before they are opened."""

_PICTURES = frozenset(
    [
        ".bmp",
        ".cur",
        ".dds",
        ".dib",
        ".dpx",
        ".exr",
        ".fits",
        ".hdr",
        ".heic",
        ".heif",
        ".icns",
        ".ico",
        ".j2k",
        ".jfif",
        ".jif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".jxl",
        ".mpo",
        ".pam",
        ".pbm",
        ".pcx",
        ".pfm",
        ".pgm",
        ".pic",
        ".pnm",
        ".ppm",
        ".psd",
        ".qoi",
        ".ras",
        ".sgi",
        ".sr",
        ".tga",
        ".xbm",
        ".xpm",
        ".xwd",
    ]
)
_MAY_MOVE = frozenset({".apng", ".avif", ".avifs", ".gif", ".png", ".tif", ".tiff", ".webp"})
PICTURE_SUFFIXES = _PICTURES | _MAY_MOVE
"""Endings of pictures; some of those may also be films."""

# Beside films and pictures lie files of which everybody knows what they are; opening them would only cost time.
_NOT_MEDIA = frozenset(
    [
        ".7z",
        ".aae",
        ".ass",
        ".bak",
        ".bif",
        ".bz2",
        ".c",
        ".cfg",
        ".conf",
        ".css",
        ".csv",
        ".db",
        ".doc",
        ".docx",
        ".exe",
        ".gz",
        ".h",
        ".htm",
        ".html",
        ".ini",
        ".ipynb",
        ".jar",
        ".js",
        ".json",
        ".jsonl",
        ".lock",
        ".log",
        ".lrc",
        ".md",
        ".nfo",
        ".npy",
        ".npz",
        ".ods",
        ".odt",
        ".parquet",
        ".part",
        ".pdf",
        ".pickle",
        ".pkl",
        ".ppt",
        ".pptx",
        ".py",
        ".rar",
        ".rst",
        ".rtf",
        ".sbv",
        ".sh",
        ".so",
        ".sqlite",
        ".srt",
        ".ssa",
        ".sub",
        ".tar",
        ".tex",
        ".toml",
        ".torrent",
        ".tsv",
        ".ttml",
        ".txt",
        ".url",
        ".vtt",
        ".xls",
        ".xlsx",
        ".xml",
        ".xmp",
        ".xz",
        ".yaml",
        ".yml",
        ".zip",
        ".zst",
    ]
)
_SOUND = frozenset(
    [
        ".aac",
        ".ac3",
        ".aif",
        ".aiff",
        ".alac",
        ".amr",
        ".ape",
        ".au",
        ".dts",
        ".flac",
        ".m4a",
        ".m4b",
        ".mid",
        ".mka",
        ".mp2",
        ".mp3",
        ".oga",
        ".opus",
        ".ra",
        ".wav",
        ".wma",
    ]
)
_TEXT_FORMATS = frozenset(
    ["aqtitle", "ass", "concat", "ffmetadata", "lrc", "microdvd", "pjs", "srt", "tty", "vplayer", "webvtt"]
)
_BEGINNINGS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cJXL ",
    b"#?RADIANCE",
    b"v/1\x01",  # OpenEXR
    b"8BPS",
    b"qoif",
    b"DDS ",
)
_BOXES = (b"ftypavif", b"ftypavis", b"ftypheic", b"ftypmif1")
# JPEG after JPEG, which begins as a picture does.
_RAW_JPEGS = frozenset({".mjpeg", ".mjpg"})


def media_of(path: Path) -> Media:
    """What the file at `path` is. Reads it where its ending does not tell."""
    if path.is_dir():
        return Media(MediaKind.OTHER, "a folder; name it, or what is in it")
    if not path.is_file():
        return Media(MediaKind.OTHER, "no such file" if not path.exists() else "not a regular file")
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return Media(MediaKind.OTHER, "hidden")
    if suffix in FILM_SUFFIXES:
        return Media(MediaKind.FILM)
    if suffix in _PICTURES:
        return Media(MediaKind.PICTURE)
    if suffix in _MAY_MOVE:
        return Media(_moving(path))
    if suffix in _NOT_MEDIA:
        return Media(MediaKind.OTHER, "neither film nor picture")
    return Media(MediaKind.OTHER, "sound only") if suffix in _SOUND else _looked_into(path)


def picture_kind(path: Path) -> MediaKind | None:
    """What a file that was named itself is, whatever its ending says; None: FFmpeg has to find out."""
    suffix = path.suffix.lower()
    if suffix in _RAW_JPEGS or not path.is_file():
        return None
    if suffix in FILM_SUFFIXES and _begins(path).startswith(b"\xff\xd8\xff"):
        # JPEG after JPEG, in a file that is called a film.
        return None
    if _has_picture_signature(path):
        return _moving(path)
    # Some pictures have no signature, and some films the name of a picture.
    return MediaKind.PICTURE if suffix in PICTURE_SUFFIXES and not _is_film(path) else None


def _has_picture_signature(path: Path) -> bool:
    # Not by OpenCV, which breaks down over names that are not UTF-8.
    head = _begins(path)
    netpbm = head[:1] == b"P" and head[1:2] in b"1234567Ff" and head[2:3].isspace()
    return (
        head.startswith(_BEGINNINGS) or head[4:12] in _BOXES or head[:4] + head[8:12] == b"RIFFWEBP" or netpbm
    )


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _is_film(path: Path) -> bool:
    found = _looked_into(path)
    return found.kind is MediaKind.FILM


def _moving(path: Path) -> MediaKind:
    """Whether a picture has more than one frame or page; FFmpeg plays the frames of most such formats itself."""
    try:
        with Image.open(path) as image:
            # Two JPEGs in one file are two views or sizes of one picture.
            if image.format in ("MPO", "JPEG") or getattr(image, "n_frames", 1) <= 1:
                return MediaKind.PICTURE
            return MediaKind.PAGES if image.format in ("TIFF", "WEBP") else MediaKind.FILM
    except Exception:  # whatever the file holds: who opens it will say what is wrong with it
        return MediaKind.PICTURE


def _looked_into(path: Path) -> Media:
    if path.stat().st_size == 0:
        return Media(MediaKind.OTHER, "empty")
    if _has_picture_signature(path):
        return Media(_moving(path))
    try:
        with local_container(path) as container:
            if container.format.name in _TEXT_FORMATS:
                return Media(MediaKind.OTHER, "neither film nor picture")
            if any(not video.disposition & Disposition.attached_pic for video in container.streams.video):
                still = container.format.name in ("image2", "ico") or container.format.name.endswith("_pipe")
                return Media(MediaKind.PICTURE if still else MediaKind.FILM)
            return Media(MediaKind.OTHER, "sound only" if container.streams.audio else "no picture in it")
    except PermissionError:
        return Media(MediaKind.OTHER, "no permission to read it")
    except (FFmpegError, OSError, ValueError):
        return Media(MediaKind.OTHER, "neither film nor picture")
