"""Films at web addresses against real servers: read once and whole, over broken connections, resumed."""

from __future__ import annotations

import base64
import logging
import re
import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pipeline.core.records import ResumePoint
from pipeline.sources import DecodedFrame, Source, SourceOptions, open_source
from pipeline.sources.camera import ConnectionLost
from pipeline.sources.film_or_camera import (
    AddressKind,
    ContainerSays,
    FeedTiming,
    ServerSays,
    by_container,
    by_server,
    timing,
)
from pipeline.sources.network import NetworkCamera
from tests.media.films import Film, write_film
from tests.videos import write_video
from tests.web_servers import FilmServer, Handler, serving


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds; its index stands at the end, where cameras and phones put it."""
    return write_video(tmp_path_factory.mktemp("web") / "clip.mp4", frames=100, width=640, height=360)


def _frames(address: str, after: ResumePoint | None = None) -> list[DecodedFrame]:
    source = open_source(address, start_ns=0, options=SourceOptions(max_backoff_s=0.01))
    assert not source.info.live
    if after is not None:
        source.resume_after(after)
    # Nothing for a moment is told by None.
    events = [event for event in source if event is not None]
    source.close()
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    assert len(frames) == len(events), "nothing is missing"
    return frames


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("breaks_after", [None, 30_000])
def test_film_is_read_once_to_its_end(film: Path, ranges: bool, breaks_after: int | None) -> None:
    content = film.read_bytes()
    if breaks_after is not None and not ranges:
        # Without ranges a server that always breaks off at one place can never be read beyond it.
        breaks_after = len(content)
    server = FilmServer(content, ranges=ranges, breaks_after=breaks_after)
    with serving(server) as address:
        frames = _frames(f"{address}/clip.mp4")
    local = open_source(str(film), start_ns=0)
    assert [(one.time, one.index) for one in frames] == [
        (one.time, one.index) for one in local if isinstance(one, DecodedFrame)
    ]
    if breaks_after == 30_000:
        assert any(place > 30_000 for place in server.asked), "it went on by range"


@pytest.mark.parametrize("ranges", [True, False])
def test_resumed_film_goes_on_behind_its_last_picture(
    film: Path, ranges: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(FilmServer(film.read_bytes(), ranges=ranges)) as address:
        whole = _frames(f"{address}/clip.mp4")
        last = whole[60]
        point = ResumePoint(last.time.pts_ns, last.index, last.time.epoch, last.time.wall_ns)
        with caplog.at_level(logging.WARNING):
            rest = _frames(f"{address}/clip.mp4", point)
    assert [(one.time, one.index) for one in rest] == [(one.time, one.index) for one in whole[61:]]
    assert ranges or "is read from its start again" in caplog.text


def test_film_that_is_replaced_is_not_read_on(film: Path) -> None:
    server = FilmServer(film.read_bytes(), breaks_after=30_000)
    with serving(server) as address:
        source = open_source(f"{address}/clip.mp4", options=SourceOptions(max_backoff_s=0.01))
        server.content = server.content + bytes(9)
        with pytest.raises(ValueError, match="another film"):
            list(source)


def test_server_that_is_gone_is_one_clear_error(film: Path) -> None:
    server = FilmServer(film.read_bytes(), breaks_after=30_000)
    with serving(server) as address:
        source = open_source(f"{address}/clip.mp4", options=SourceOptions(max_backoff_s=0.01))
    with pytest.raises(ValueError, match=r"reading stopped at byte \d+ of \d+: .*start again"):
        list(source)


def test_login_is_sent_and_never_told(film: Path) -> None:
    server = FilmServer(film.read_bytes())
    tries: list[str | None] = []

    def guarded(request: Handler) -> None:
        tries.append(request.headers.get("Authorization"))
        if tries[-1] == "Basic " + base64.b64encode(b"user:hunter2").decode():
            server(request)
        else:
            request.send("text/plain", b"", 401, WWW_Authenticate='Basic realm="film"')

    with serving(guarded) as address:
        place = address.removeprefix("http://")
        source = open_source(f"http://user:hunter2@{place}/clip.mp4")
        assert "hunter2" not in repr(source.info)
        assert sum(event is not None for event in source) == 100
        tries.clear()
        with pytest.raises(ValueError, match="refused") as error:
            open_source(f"http://user:hunter3@{place}/clip.mp4")
    assert "hunter3" not in str(error.value)
    assert len([one for one in tries if one]) == 1, "cameras lock accounts"


@pytest.mark.promise("redirects")
@pytest.mark.parametrize("how", ["302", "307", "playlist"])
def test_another_host_that_a_server_leads_to_gets_no_password(how: str) -> None:
    elsewhere: list[str | None] = []

    def other(request: Handler) -> None:
        elsewhere.append(request.headers.get("Authorization"))
        request.send("text/plain", b"", 401, WWW_Authenticate='Basic realm="other"')

    with serving(other) as there:
        place = there.replace("127.0.0.1", "localhost")
        listed = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{place}/0.ts\n#EXT-X-ENDLIST\n"

        def named(request: Handler) -> None:
            if "Authorization" not in request.headers:
                request.send("text/plain", b"", 401, WWW_Authenticate='Basic realm="film"')
            elif how == "playlist":
                request.send("application/vnd.apple.mpegurl", listed.encode())
            else:
                request.send("text/plain", b"", int(how), Location=f"{place}/clip.mp4")

        name = "clip.m3u8" if how == "playlist" else "clip.mp4"
        with serving(named) as address, pytest.raises(ValueError, match="connect") as error:
            open_source(f"{address.replace('http://', 'http://user:hunter2@')}/{name}")
    assert elsewhere
    assert set(elsewhere) == {None}
    assert "hunter2" not in str(error.value)


def test_whoever_waits_for_a_server_that_has_fallen_silent_can_look_around(film: Path) -> None:
    content, silent = film.read_bytes(), threading.Event()

    def answer(request: Handler) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        since = int(wanted[1]) if wanted else 0
        whole = f"bytes {since}-{len(content) - 1}/{len(content)}"
        request.begin("video/mp4", 206, Content_Length=str(len(content) - since), Content_Range=whole)
        # The index at the end, the beginning, and then nothing.
        request.write(content[since:] if since > len(content) - 20_000 else content[since:100_000])
        silent.wait(30)

    with serving(answer) as address:
        source = open_source(f"{address}/clip.mp4", start_ns=0)
        begun = time.monotonic()
        assert next(event for event in iter(source) if event is None or begun + 20 < time.monotonic()) is None
        begun = time.monotonic()
        source.close()
        assert time.monotonic() - begun < 2
        silent.set()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key and a certificate for localhost that nobody has signed."""
    key, shown = folder / "key.pem", folder / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*made, "-keyout", str(key), "-out", str(shown)], check=True, capture_output=True)
    return key, shown


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_certificate_that_nobody_has_signed_is_refused_unless_it_is_trusted_or_asked_for(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, shown = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)
    with serving(FilmServer(film.read_bytes()), context) as address:
        address = address.replace("http://127.0.0.1", "https://localhost") + "/clip.mp4"
        with pytest.raises(
            ValueError, match=r"certificate cannot be trusted \(.*SSL_CERT_FILE.*check_certificates"
        ):
            open_source(address)
        assert _readable(open_source(address, options=SourceOptions(check_certificates=False)))
        monkeypatch.setenv("SSL_CERT_FILE", str(shown))
        assert _readable(open_source(address))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
def test_ffmpegs_own_connections_believe_no_false_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no length is read by FFmpeg: it connects again by itself, when nobody else asks."""
    key, shown = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown, key)

    content = write_film(Film("ts", count=50), tmp_path / "clip.ts").read_bytes()

    def endless(request: Handler) -> None:
        request.begin("video/mp2t")
        request.write(content)

    with serving(endless, context) as address:
        address = address.replace("http://127.0.0.1", "https://localhost") + "/live"
        with pytest.raises(ConnectionLost):
            NetworkCamera(address, SourceOptions()).open()
        NetworkCamera(address, SourceOptions(check_certificates=False)).open().close()
        monkeypatch.setenv("SSL_CERT_FILE", str(shown))
        NetworkCamera(address, SourceOptions()).open().close()


def _readable(source: Source) -> bool:
    frames = sum(isinstance(event, DecodedFrame) for event in source)
    source.close()
    return frames == 100


def test_page_about_a_film_is_no_film() -> None:
    with (
        serving(lambda request: request.send("text/html", b"<html>" + bytes(2000))) as address,
        pytest.raises(ValueError, match="not a video"),
    ):
        open_source(f"{address}/watch")


@pytest.mark.parametrize(
    ("kind", "size", "head", "expected"),
    [
        ("video/mp4", 1000, b"\0\0\0\x20ftypisom", AddressKind.FILM),
        ("", 1000, b"\x1aE\xdf\xa3", AddressKind.FILM),
        ("video/mp2t", None, b"G", AddressKind.UNTOLD),
        ("multipart/x-mixed-replace", 10**9, b"--frame", AddressKind.CAMERA),
        ("image/jpeg", 1000, b"\xff\xd8", AddressKind.CAMERA),
        ("application/vnd.apple.mpegurl", 200, b"#EXTM3U", AddressKind.UNTOLD),
        ("text/plain", 200, b"\xef\xbb\xbf#EXTM3U\n", AddressKind.UNTOLD),
        ("text/xml", 200, b'<?xml version="1.0"?>\n<MPD type="dynamic">', AddressKind.UNTOLD),
    ],
)
def test_what_the_server_settles(kind: str, size: int | None, head: bytes, expected: AddressKind) -> None:
    assert by_server(ServerSays(kind, size, head)) is expected


@pytest.mark.parametrize(
    ("name", "duration", "expected", "stamps"),
    [
        ("hls", 60_000_000, AddressKind.FILM, FeedTiming.SEGMENTED),
        ("hls", None, AddressKind.CAMERA, FeedTiming.SEGMENTED),
        ("dash", 0, AddressKind.CAMERA, FeedTiming.SEGMENTED),
        ("matroska,webm", 5_000_000, AddressKind.FILM, FeedTiming.STAMPED),
        ("mpegts", None, AddressKind.CAMERA, FeedTiming.STAMPED),
        ("mpjpeg", 40_000, AddressKind.CAMERA, FeedTiming.INVENTED),
        ("jpeg_pipe", None, AddressKind.CAMERA, FeedTiming.INVENTED),
    ],
)
def test_what_the_container_settles(
    name: str, duration: int | None, expected: AddressKind, stamps: FeedTiming
) -> None:
    assert by_container(ContainerSays(name, duration)) is expected
    assert timing(name) is stamps
