"""Films at web addresses, and which addresses are films: asked of the server first, then of the container."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
from urllib.error import HTTPError
from urllib.parse import urljoin

import av
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError

from pipeline.core.errors import MalformedFile, SourceAway, SourceRefused
from pipeline.core.redaction import fill_in, redact_url
from pipeline.core.restarts import LossCause, RestartPolicy
from pipeline.sources.camera import ConnectionLost
from pipeline.sources.container import BOUNDED, TEXT_FORMATS
from pipeline.sources.dash import DashFilm, DashServer
from pipeline.sources.dash_manifest import BadManifest
from pipeline.sources.far_film import unhurried
from pipeline.sources.film_or_camera import AddressKind, by_server, is_dash, is_playlist
from pipeline.sources.network import REFUSED_REMEDY, NetworkCamera, certificate_options
from pipeline.sources.playlists import MOST_BYTES, check_playlist, is_hls
from pipeline.sources.source import SourceOptions
from pipeline.sources.web_file import WebAnswer, WebFile, WebServer, why

# What tells two films apart: their size and so much of their beginning.
_TELLING_BYTES = 64 << 10
# FFmpeg asks in small pieces otherwise, and each is a step into Python.
_BUFFER_BYTES = 256 << 10


class WebFilm:
    """A film of known size at an address: read in place, from any byte that the server can begin at."""

    def __init__(self, address: str, server: WebServer, answer: WebAnswer, options: SourceOptions) -> None:
        self.address = address
        self._server = server
        self._answer = answer
        self._options = options

    def open(self, hwaccel: HWAccel | None) -> av.container.InputContainer:
        try:
            container = av.open(
                self._file(),
                metadata_errors="replace",
                hwaccel=hwaccel,
                buffer_size=_BUFFER_BYTES,
                options=BOUNDED,
            )
        except (FFmpegError, OSError):
            raise SourceRefused(f"{self.address}: {_NO_VIDEO}") from None
        return _video_only(container, self.address)

    def fingerprint(self) -> str:
        with self._file() as file:
            head = b""
            while len(head) < _TELLING_BYTES and (more := file.read(_TELLING_BYTES - len(head))):
                head += more
        return f"web:{self._answer.says.size}:{hashlib.sha256(head).hexdigest()[:32]}"

    def modified_ns(self) -> int:
        told = self._answer.modified_ns
        return time.time_ns() if told is None else told

    def size_bytes(self) -> int | None:
        return self._answer.says.size

    def _file(self) -> WebFile:
        return WebFile(
            self._server,
            self._answer,
            address=self.address,
            retry=self._options.reconnect is not RestartPolicy.NEVER,
            longest_pause_s=self._options.max_backoff_s,
        )


class PlaylistFilm:
    """A film that a finished playlist (HLS) describes, and whatever else knows its length."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        self.address = redact_url(uri)
        self._uri = uri
        self._options = options

    def open(self, hwaccel: HWAccel | None) -> av.container.InputContainer:
        try:
            url = fill_in(self._uri)
            options = BOUNDED | (_GO_ON if self._options.reconnect is not RestartPolicy.NEVER else {})
            container = av.open(
                url,
                options=options | certificate_options(url, self._options.check_certificates),
                metadata_errors="replace",
                hwaccel=hwaccel,
                timeout=(self._options.open_timeout_s, 2 * self._options.open_timeout_s),
            )
        except (FFmpegError, OSError, ValueError):
            raise SourceRefused(f"{self.address}: {_NO_VIDEO}") from None
        return _video_only(container, self.address)

    def fingerprint(self) -> str:
        with self.open(None) as container:
            told = f"{self.address} {container.duration}"
        return f"web:{hashlib.sha256(told.encode()).hexdigest()[:32]}"

    def modified_ns(self) -> int:
        return time.time_ns()

    def size_bytes(self) -> int | None:
        return None


_NO_VIDEO = (
    "not a video that FFmpeg can read; check the address in a browser: is it the film or a page about it?"
)
# FFmpeg's own way to go on after a broken connection; seconds.
_GO_ON = {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "10"}
_LOST_LOGIN = {401, 403}


def at_address(uri: str, options: SourceOptions) -> WebFilm | PlaylistFilm | DashFilm | NetworkCamera:
    """What stands at `uri`: decided by `film_or_camera.py`; any address but http(s) is a camera's.

    Raises `SourceRefused` when a web address cannot be reached, or needs another login.
    """
    if not uri.startswith(("http://", "https://")):
        return NetworkCamera(uri, options)
    address = redact_url(uri)
    try:
        url = fill_in(uri)
    except ValueError as error:
        raise SourceRefused(f"{address}: cannot connect: {error}; then start again") from None
    found = unhurried(lambda: _server_says(url, options))
    if isinstance(found, ssl.SSLCertVerificationError):
        raise SourceRefused(
            f"{address}: its certificate cannot be trusted ({found.verify_message}); name the file of a certificate that "
            "you trust in SSL_CERT_FILE, or take it as it is with --set sources.check_certificates=false"
        )
    if isinstance(found, HTTPError):
        told = f"the user name or password is refused; {REFUSED_REMEDY}"
        raise SourceAway(f"{address}: cannot connect: {told}", again=False) from None
    if found is not None:
        server, answer = found
        kind = by_server(answer.says)
        if kind is AddressKind.FILM:
            return WebFilm(address, server, answer, options)
        if kind is AddressKind.CAMERA:
            return NetworkCamera(uri, options)
    if found is not None and is_hls(found[1].says.head):
        unhurried(lambda: _check_playlist(url, address, options))
    dash = found is not None and is_dash(found[1].says)
    if dash and (film := unhurried(lambda: _dash_film(url, address, options))) is not None:
        return film
    camera = NetworkCamera(
        uri, options, segmented=found is not None and is_playlist(found[1].says), dash=dash
    )
    try:
        connection = unhurried(camera.open)
    except ConnectionLost as lost:
        again = lost.ending is not LossCause.REFUSED
        raise SourceAway(f"{address}: cannot connect: {lost}; {lost.remedy}", again=again) from None
    if connection.kind is AddressKind.FILM:
        connection.close()
        return PlaylistFilm(uri, options)
    camera.use_first(connection)
    return camera


def _check_playlist(url: str, address: str, options: SourceOptions) -> None:
    """Raise `SourceRefused` for a playlist that FFmpeg might follow without end."""
    until_s = time.monotonic() + options.open_timeout_s

    def read(named: str) -> bytes | None:
        place, left_s = urljoin(url, named), until_s - time.monotonic()
        if not place.startswith(("http://", "https://")):
            raise MalformedFile(
                f"{address}: a playlist that this one names is at no web address; name the film itself"
            )
        try:
            server = WebServer(
                place, timeout_s=options.open_timeout_s, check_certificate=options.check_certificates
            )
            return server.text(MOST_BYTES + 1, left_s) if left_s > 0 else None
        except (OSError, http.client.HTTPException, ValueError):
            return None

    text = read("")
    if text is not None:
        check_playlist(address, text, read)


def _dash_film(url: str, address: str, options: SourceOptions) -> WebFilm | DashFilm | None:
    """The film that the manifest at `url` describes; None where it goes on, as a camera does."""
    server = DashServer(url, options)
    try:
        video = server.manifest()
        if video.live:
            return None
        if video.whole is None:
            return DashFilm(address, server, video, options)
        whole = server.elsewhere(video.whole.url)
        answer = whole.ask()
    except BadManifest as bad:
        raise SourceRefused(f"{address}: this DASH manifest cannot be read: {bad}") from None
    except (OSError, http.client.HTTPException) as error:
        raise SourceRefused(
            f"{address}: cannot connect: {why(error)}; check the address and the network"
        ) from None
    if answer.says.size is None:
        raise SourceRefused(
            f"{address}: the server does not say how large its film is; give the film's own address"
        )
    return WebFilm(address, whole, answer, options)


def _server_says(
    url: str, options: SourceOptions
) -> tuple[WebServer, WebAnswer] | HTTPError | ssl.SSLCertVerificationError | None:
    """The server's answer, its refusal, or None where FFmpeg may know better: cameras speak odd dialects."""
    try:
        server = WebServer(
            url, timeout_s=options.open_timeout_s, check_certificate=options.check_certificates
        )
        return server, server.ask()
    except HTTPError as error:
        return error if error.code in _LOST_LOGIN else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # FFmpeg believes any certificate: it must not be asked after one that is false.
        cause = getattr(error, "reason", None)
        return cause if isinstance(cause, ssl.SSLCertVerificationError) else None


def _video_only(container: object, address: str) -> av.container.InputContainer:
    assert isinstance(container, av.container.InputContainer)
    if container.format.name in TEXT_FORMATS:
        container.close()
        raise SourceRefused(f"{address}: {_NO_VIDEO}")
    return container
