"""What an RTSP server is asked before FFmpeg is let in: redirects and passwords, against servers that mean it ill."""

from __future__ import annotations

import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.restarts import LossCause
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.camera import ConnectionLost
from pipeline.sources.rtsp_greeting import greeted

pytestmark = pytest.mark.promise("redirects")

DIGEST = 'Digest realm="cam", nonce="abc", qop="auth"'


class Server:
    """Answers each request by `answer(method, headers)`: a status line with headers. `heard`: what came."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.answer: Callable[[str], bytes] = lambda request: b"RTSP/1.0 200 OK\r\n\r\n"
        self.port = 0

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def passwords(self) -> list[str]:
        return re.findall(r"Authorization: (.*)\r", "".join(self.heard))


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()

    class Handler(socketserver.StreamRequestHandler):
        timeout = 20

        def handle(self) -> None:
            while line := self.rfile.readline():
                request = line
                while (more := self.rfile.readline()) not in (b"\r\n", b""):
                    request += more
                server.heard.append(request.decode("latin-1"))
                self.wfile.write(server.answer(server.heard[-1]))

    class Quiet(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as tcp:
        server.port = tcp.server_address[1]
        threading.Thread(target=tcp.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        tcp.shutdown()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with ExitStack() as both:
        yield both.enter_context(serving()), both.enter_context(serving())


def where_to(url: str, timeout_s: float = 5) -> str:
    with greeted(url, timeout_s) as address:
        return address


def moved(to: str) -> Callable[[str], bytes]:
    return lambda request: f"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: {to}\r\n\r\n".encode()


@pytest.mark.parametrize("after_login", [False, True])
def test_a_password_goes_to_no_other_host(servers: tuple[Server, Server], after_login: bool) -> None:
    camera, stranger = servers
    stranger.answer = lambda request: b'RTSP/1.0 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
    elsewhere = moved(f"rtsp://localhost:{stranger.port}/cam")

    def answer(request: str) -> bytes:
        if after_login and "Authorization" not in request:
            return f"RTSP/1.0 401 No\r\nWWW-Authenticate: {DIGEST}\r\n\r\n".encode()
        return elsewhere(request)

    camera.answer = answer
    with pytest.raises(ValueError, match=r"sends us on to rtsp://localhost.* no host but the one") as error:
        open_source(f"rtsp://admin:hunter2@{camera.place}/cam", options=SourceOptions(open_timeout_s=5))
    assert "hunter2" not in str(error.value)
    assert not stranger.heard
    assert "hunter2" not in "".join(camera.heard)
    assert len(camera.passwords()) == after_login


def test_the_same_host_gets_it_at_another_place_and_others_get_the_question_alone(
    servers: tuple[Server, Server],
) -> None:
    camera, other = servers
    camera.answer = moved(f"rtsp://{other.place}/second")
    assert (
        where_to(f"rtsp://admin:hunter2@{camera.place}/cam") == f"rtsp://admin:hunter2@{other.place}/second"
    )
    camera.answer = moved(f"rtsp://localhost:{other.port}/second")
    assert where_to(f"rtsp://{camera.place}/cam") == f"rtsp://localhost:{other.port}/second"


def test_a_circle_is_left_after_a_few_rounds(servers: tuple[Server, Server]) -> None:
    camera, _ = servers
    camera.answer = moved(f"rtsp://{camera.place}/cam")
    begun = time.monotonic()
    with pytest.raises(ConnectionLost, match="on and on") as lost:
        where_to(f"rtsp://{camera.place}/cam")
    assert lost.value.ending is LossCause.FAILED
    assert len(camera.heard) <= 4
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://x/", "elsewhere", "rtsp:///", "rtsp://[::"])
def test_it_leads_to_rtsp_only(servers: tuple[Server, Server], to: str) -> None:
    camera, _ = servers
    camera.answer = moved(to)
    with pytest.raises(ConnectionLost, match="no RTSP address"):
        where_to(f"rtsp://{camera.place}/cam")


@pytest.mark.promise("sent-once")
@pytest.mark.parametrize("challenge", [DIGEST, 'Basic realm="cam"'])
def test_a_wrong_password_is_sent_once(servers: tuple[Server, Server], challenge: str) -> None:
    camera, _ = servers
    camera.answer = lambda request: f"RTSP/1.0 401 No\r\nWWW-Authenticate: {challenge}\r\n\r\n".encode()
    with pytest.raises(ValueError, match="password is refused"):
        open_source(f"rtsp://admin:hunter2@{camera.place}/cam", options=SourceOptions(open_timeout_s=5))
    assert len(camera.passwords()) == 1


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda status, fields: b"RTSP/1.0 " + status + b"\r\n" + b"\r\n".join(fields) + b"\r\n\r\n",
        st.sampled_from([b"200 OK", b"302 x", b"401 x", b"999999", b"-1", b""]),
        st.lists(
            st.sampled_from(
                [b"Content-Length: 99999999999", b"Content-Length: -1", b"Location: ", b"Location: rtsp://h"]
            )
            | st.sampled_from(
                [b"WWW-Authenticate: Digest", b"WWW-Authenticate: Digest a=b,,=", b"\xff\x00: \x1b[2J"]
            ),
            max_size=3,
        ),
    )
)
def test_whatever_answers_is_borne(servers: tuple[Server, Server], answer: bytes) -> None:
    camera, _ = servers
    camera.answer = lambda request: answer
    with suppress(ConnectionLost, OSError):
        assert where_to(f"rtsp://u:p@{camera.place}/cam", 0.3).startswith("rtsp://u:p@")
