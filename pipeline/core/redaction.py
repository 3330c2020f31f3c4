"""Addresses without their secrets: what is not known to be harmless is hidden.

Cameras take passwords in every part of an address: before the host, in the path, in query values of any name, and people
type them unescaped. So there is no list of what looks like a secret. Scheme, host and port are kept, and of the rest the words
that stand in many cameras' manuals (`live`, `channel=1`, `Streaming/Channels/101`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.core.errors import UserError

HIDDEN = "***"

_WORDS = """
a align amp api archive area asp audio av avi axis back barn basic bin boot both bottom bridge bus cam
camera cameras cams cctv cgi ch chan channel channels chn cif clip clips codec common compression corner
corridor counter dash day default dev device door dvr east enable encoder entrance entry exit feed feeds
fence field film films first flv fps frame front garage garden gate ground h h263 h264 h265 hall hd height
hevc hi high hls home house hq http image img index inst internal isapi jpeg jpg kitchen lane left level
live livestream lo lobby loft lot low lq m m2ts m3u8 m4v main mainstream media medium mjpeg mjpg mkv mobile
monitor mov mp4 mpd mpeg mpeg2 mpeg4 mpegts mpg multicast net north nvr office ogg onvif original out
outdoor output overlay parking path pelco picture play playback player playlist pool porch port preview
primary profile proto protocol ptz public push qcif quality raw real realmonitor realtime rear rec recording
recordings res resolution right road roof room rtmp rtp rtsp rtspstream s sample sd sdp second secondary
segment server service sfu shop side site size small snapshot source south srt srtp stable stage stairs
static store stream streaming streams street sub substream subtype t tcp test third top track trackid tracks
transport transportmode ts tunnel type udp unicast unit us user v v1 v2 vga vid video videocodec videoinput
videomain videos videostream view vod vss wall warehouse web webm webrtc west width x yard zone
"""
_HARMLESS = frozenset(_WORDS.split())
"""Words that stand in addresses of cameras and films as their makers print them. None of them opens anything."""

_KEYS = _HARMLESS | {
    "auth",
    "key",
    "login",
    "pass",
    "passwd",
    "password",
    "pw",
    "pwd",
    "sig",
    "token",
    "username",
}
"""Names of values that may be shown, whatever becomes of the value."""

# No scheme is longer; a bound keeps a long line from being read once for each of its letters.
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]{0,40}://")
# An address that was mistyped, so that it is none, or that is written as JSON or a query writes it. It has no parts to keep.
_MISTYPED = re.compile(
    r"(?<![\w/.-])(?P<scheme>rtsps?|rtmps?|https?|srt|udp|tcp|rtp)(:/(?!/)|[:;.,]?\s?\\+|[;.,]/+|//|:\s//|%3a)\S*",
    re.IGNORECASE,
)
# What may stand between a word and `user:password@host` in it, and how a path begins.
_BEFORE = "'\"(<[="
_PATH = re.compile(r"/[^/]|\.\.?/|~[^@:/]*/")
_AT = re.compile(r"@(?=[\w\[.*])")
# A token in place of a user name, without a password. Before an address or a port it always is one; before a plain name it is taken for
# one unless it is harmless, or the whole ends as a file does.
_HOST_ALONE = re.compile(
    r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.%]+\])(:\d+)?(?=[/?#]|\W*$)|[\w.-]+:\d{1,5}(?=[/?#]|\W*$)"
)
_FILE_ALONE = re.compile(
    r"[\w.-]+\.(arrow|avi|bmp|csv|flv|gif|heic|jpe?g|jsonl?|log|m2ts|m3u8?|m4v|mjpe?g|mkv|mov|mp4|mpd|mpe?g|npy|parquet|png"
    r"|safetensors|sdp|srt|tiff?|ts|txt|vtt|webm|webp|ya?ml|zarr)(?=[:\W]*$)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie)(['\"]?\s*[:=]\s*)[^\n]+", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+|\*\*\*)?(:(\d{1,5}|\*\*\*))?")
_CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Channels, tracks and sizes have up to four digits after a name; alone, four digits are already a PIN.
_LONGEST_NUMBER = 3
_LONGEST_VALUE = 4
# What ends a sentence or a quotation around an address rather than the address.
_AFTER = ".,:;!?)]}>'\"`"


def redact_url(uri: str) -> str:
    """`uri` with scheme, host, port and what is known to be harmless; a path of this machine comes back unchanged.

    Whatever stands before the last `@` may be a password with an unescaped `/`, `?` or `#`, and goes. Redacting twice
    changes nothing.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return uri
    if scheme.group().lower() == "file://":
        host, slash, path = uri[scheme.end() :].partition("/")
        return f"file://{HIDDEN}@{host.rpartition('@')[2]}{slash}{path}" if "@" in host else uri
    rest = BLANK.sub(HIDDEN, uri[scheme.end() :]).rpartition("@")[2]
    authority = re.split(r"[/?#;&\s]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    host = authority if _HOST.fullmatch(authority) else HIDDEN
    before, mark, fragment = tail.partition("#")
    path, question, query = before.partition("?")
    shown = "/".join(_segment(segment) for segment in path.split("/"))
    return (
        scheme.group().lower()
        + host
        + shown
        + question
        + _pairs(query, "&;")
        + mark
        + (HIDDEN if fragment else "")
    )


def redact_text(text: str) -> str:
    """`text` (a log line, an error message) with every address in it redacted, those that are mistyped and HTTP's credentials too."""
    starts = [match.start() for match in _SCHEME.finditer(text)]
    bounds = [*starts, len(text)]
    pieces = [_plain(text[: bounds[0]])]
    for start, end in pairwise(bounds):
        piece = text[start:end]
        # A password may hold quotes, and even blanks: up to the last `@` that could end one, then to the next blank.
        at = max((match.start() for match in re.finditer(r"(?<=\S)@(?=\S)", piece)), default=0)
        blank = re.search(r"\s", piece[at:])
        address = piece[: at + blank.start()] if blank else piece
        stripped = address.rstrip(_AFTER)
        pieces += [redact_url(stripped), address[len(stripped) :] + _plain(piece[len(address) :])]
    return "".join(pieces)


def _plain(text: str) -> str:
    """`text` between addresses, without what was meant to be one."""
    text = re.sub(r"\S+", lambda word: _without_login(word.group()), _MISTYPED.sub(_mistyped, text))
    return _HEADER.sub(rf"\1\2{HIDDEN}", text)


def _without_login(word: str) -> str:
    """`word` without what stands before the last `@` of `user:password@host`, or of `token@host`."""
    at = max((found.start() for found in _AT.finditer(word)), default=-1)
    colon = word.find(":", 0, max(at, 0))
    if colon >= 0:
        start = 1 + max(word.rfind(mark, 0, colon) for mark in _BEFORE)
    else:
        start = len(word) - len(word.lstrip(_BEFORE))
        token = word[start : max(at, 0)]
        if not token:
            return word
        if not _HOST_ALONE.match(word, at + 1) and (_harmless(token) or _FILE_ALONE.match(word, at + 1)):
            return word
    return word if _PATH.match(word, start) else f"{word[:start]}{HIDDEN}{word[at:]}"


def _mistyped(found: re.Match[str]) -> str:
    return f"{found['scheme']}:/{HIDDEN}"


def redact_argument(argument: str) -> str:
    """A word of a command line, with the address in it redacted; blanks and all, and where it was mistyped."""
    if _SCHEME.match(argument):
        return redact_url(argument)
    if os.path.lexists(argument):
        return argument
    broken = _MISTYPED.match(argument)
    if broken is not None:
        return _mistyped(broken)
    return redact_text(argument if argument.startswith("-") else _without_login(argument))


def is_mistyped_address(word: str) -> bool:
    """Whether `word` was meant to be an address and is none: `rtsp//host`, `rtsp:\\\\host`, `user:password@host`."""
    return not _SCHEME.match(word) and (_MISTYPED.match(word) is not None or _without_login(word) != word)


def _segment(segment: str) -> str:
    """A part of a path between two slashes; some cameras hide a whole query in one."""
    if not segment or _harmless(unquote(segment)):
        return segment
    if "=" in segment:
        return _pairs(segment, "&;,_")
    stem, dot, ending = segment.rpartition(".")
    return HIDDEN + dot + ending if stem and ending.lower() in _HARMLESS else HIDDEN


def _pairs(text: str, separators: str) -> str:
    """`name=value` pairs and bare names. What follows a hidden value without a name of its own may belong to it."""
    shown, hiding = [], False
    for piece in re.split(f"([{re.escape(separators)}])", text):
        name, sign, value = piece.partition("=")
        if not piece or (len(piece) == 1 and piece in separators):
            shown.append(piece)
        elif not sign:
            hiding = hiding or not _harmless(unquote(piece))
            shown.append(HIDDEN if hiding else piece)
        else:
            harmless = _harmless(name) and not name.isdigit() and name.lower() != "user"
            named = harmless or name.lower() in _KEYS
            hiding = not (harmless and _harmless(unquote(value), _LONGEST_VALUE))
            shown.append(f"{name if named else HIDDEN}={HIDDEN if hiding and value else value}")
    return "".join(shown)


def _harmless(text: str, digits: int = _LONGEST_NUMBER) -> bool:
    """Whether `text` consists of known words and short numbers."""
    tokens = re.split(r"[-_. +]", text)
    numbers = sum(token.isdigit() for token in tokens)
    return numbers <= 2 and all(not token or _known(token, digits) for token in tokens)


def _known(token: str, digits: int) -> bool:
    if token == HIDDEN or token.lower() in _HARMLESS:
        return True
    if token.isdigit():
        return len(token) <= digits
    words = _CAMEL.findall(token)
    if "".join(words) != token:
        return False
    # `101h264Preview`: at most two numbers, so that letters and digits in turn, as passwords have them, are none.
    numbers = [word for word in words if word.isdigit()]
    return len(numbers) <= 2 and all(
        len(word) <= digits if word.isdigit() else word.lower() in _HARMLESS for word in words
    )


# Passwords that are not written into an address: filled in from the environment or a file when it is opened.

SECRET_FOLDERS = (Path("/run/secrets"),)
"""Where containers find their secrets."""

_MOST_SECRET_BYTES = 4096
BLANK = re.compile(r"\$\{(file:[^}]+|[A-Za-z_][A-Za-z0-9_]*)\}")


def fill_in(uri: str, environment: Mapping[str, str] = os.environ) -> str:
    """`uri` with `${NAME}` replaced by an environment variable and `${file:PATH}` by the first line of a file.

    Values are percent-encoded, so that a password may hold any character. Raises `UserError` that names what is
    missing, never what was found.
    """
    return BLANK.sub(lambda blank: quote(_value(blank.group(1), environment), safe=""), uri)


def _value(name: str, environment: Mapping[str, str]) -> str:
    if not name.startswith("file:"):
        value = environment.get(name)
        if not value:
            raise UserError(
                f"${{{name}}}: this environment variable is not set; set it where the program runs"
            )
        return value
    path = Path(name.removeprefix("file:")).expanduser()
    try:
        lines = _secret_text(path).splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a small text file"
        raise UserError(
            f"${{{name}}}: cannot read this file ({reason}); check path and permissions"
        ) from None
    if not lines or not lines[0].strip():
        raise UserError(f"${{{name}}}: this file is empty; write the password into its first line")
    return lines[0].strip()


def _secret_text(path: Path) -> str:
    """A small regular file. Raises OSError, and ValueError where it is another thing."""
    # Without waiting: a FIFO might never be written to.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError
        data = file.read(_MOST_SECRET_BYTES + 1)
    if len(data) > _MOST_SECRET_BYTES:
        raise ValueError
    return data.decode()


LIST_VARIABLES = "SCA_LIST_VARIABLES"
"""Names, with commas between them, of further environment variables that a list may fill in."""

_CAMERA_WORDS = frozenset(
    [
        "SCA",
        "CAM",
        "CAMS",
        "CAMERA",
        "CAMERAS",
        "CCTV",
        "DVR",
        "IPCAM",
        "NVR",
        "ONVIF",
        "RTMP",
        "RTSP",
        "RTSPS",
        "STREAM",
        "STREAMS",
        "VIDEO",
        "WEBCAM",
    ]
)


def check_list_blanks(uri: str, folder: Path, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `UserError` unless each blank of an address from a list in `folder` may be filled in.

    A list may come from elsewhere and name any host. So it can hand on no file but those that were put beside or below
    it, or among the secrets of a container; and those only as user, password or query value, never as host or path. Of
    the environment, where other programs have their tokens, it gets what by its name is there for cameras.
    """
    allowed = {name.strip() for name in environment.get(LIST_VARIABLES, "").split(",")}
    for blank in BLANK.finditer(uri):
        name = blank.group(1)
        if not name.startswith("file:"):
            if name not in allowed and not _CAMERA_WORDS & {
                word.rstrip("0123456789") for word in name.upper().split("_")
            }:
                raise UserError(
                    f"${{{name}}}: a list fills in only variables that are for cameras by their name (CAMERA_PASSWORD, "
                    f"NVR_LOGIN, SCA_YARD); rename it, or allow it with {LIST_VARIABLES}={name}"
                )
            continue
        if not _is_credential(uri, blank):
            raise UserError(
                f"${{{name}}}: a file fills in only user, password or the value of a query; write the rest out"
            )
        path = os.path.realpath(os.path.expanduser(name.removeprefix("file:")))
        if not any(Path(path).is_relative_to(os.path.realpath(root)) for root in (folder, *SECRET_FOLDERS)):
            raise UserError(
                f"${{{name}}}: a list reads only files below its own folder or {SECRET_FOLDERS[0]}; put the file there, or "
                "give the address on the command line"
            )


def _is_credential(uri: str, blank: re.Match[str]) -> bool:
    """Whether a blank stands before the `@` of the host, or behind the `=` of a query."""
    scheme = _SCHEME.match(uri)
    if scheme is None or blank.start() < scheme.end():
        return False
    # The blanks themselves may hold any of the marks that are looked for.
    plain = BLANK.sub(lambda found: "x" * len(found.group()), uri)
    host_end = re.search(r"[/?#]", plain[scheme.end() :])
    authority = plain[: scheme.end() + host_end.start()] if host_end else plain
    if blank.start() < authority.rfind("@"):
        return True
    before = plain[: blank.start()]
    query = before.partition("?")[2] if "?" in before and "#" not in before else ""
    return "=" in re.split(r"[&;]", query)[-1]
