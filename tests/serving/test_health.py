"""Health and metrics over HTTP, without a run behind them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.core.records import Gap
from pipeline.core.regions import Avoided
from pipeline.runtime.progress import StreamProgress
from pipeline.serving import bounded_server
from pipeline.serving.health import Health, health_server
from pipeline.serving.metrics import RunMetrics


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_follows_the_loop_and_readiness_the_streams() -> None:
    now = [0.0]
    health = Health(60, clock=lambda: now[0])
    with health_server("127.0.0.1", 0, RunMetrics(), health) as port:
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz") == (503, "starting\n")
        health.running({"a": True, "b": False})
        assert fetch(port, "/readyz") == (503, "not up: b\n")
        health.running({"a": True, "b": True})
        assert fetch(port, "/readyz") == (200, "ok\n")
        now[0] = 61.0
        assert fetch(port, "/healthz") == (503, "the driver has been silent for 61 s\n")
        assert fetch(port, "/readyz")[0] == 503
        health.alive()
        assert fetch(port, "/healthz")[0] == 200


def test_counts_are_those_that_were_told_by_stream_and_reason() -> None:
    metrics = RunMetrics()
    metrics.progress(StreamProgress("a", None, frames=7, keyframes=3, avoided=Avoided(5), reconnects=2))
    metrics.progress(StreamProgress("b", None, frames=1))
    metrics.progress(StreamProgress("a", None, frames=9, keyframes=4, avoided=Avoided(6, 2, 1), reconnects=2))
    metrics.gap("a", Gap(0, 10, "dropped", 4))
    metrics.gap("a", Gap(20, 30, "dropped", 2))
    metrics.gap("a", Gap(20, 30, "corrupt", 1))
    for latency in (0.2, 0.4, 100.0):
        metrics.queryable("a", latency)
    with health_server("127.0.0.1", 0, metrics, Health(60)) as port:
        text = fetch(port, "/metrics")[1]
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert (found["sca_frames_total", "a"], found["sca_frames_total", "b"]) == (9, 1)
    assert found["sca_keyframes_total", "a"] == 4
    assert found["sca_reconnects_total", "a"] == 2
    lost = {key[1:]: value for key, value in found.items() if key[0] == "sca_frames_lost_total"}
    assert lost == {("a", "dropped"): 6, ("a", "corrupt"): 1}
    buckets = {
        key[1]: value
        for key, value in found.items()
        if key[0] == "sca_queryable_latency_seconds_bucket" and key[2] == "a"
    }
    assert (buckets["0.25"], buckets["0.5"], buckets["60.0"], buckets["+Inf"]) == (1, 2, 2, 3)


def test_a_port_that_is_taken_is_explained() -> None:
    with health_server("127.0.0.1", 0, RunMetrics(), Health(60)) as port:
        second = health_server("127.0.0.1", port, RunMetrics(), Health(60))
        with pytest.raises(ValueError, match=f"--metrics-port {port}: .*choose another port"), second:
            raise AssertionError("two servers on one port")
    # Given back at the end.
    with health_server("127.0.0.1", port, RunMetrics(), Health(60)) as again:
        assert again == port


def ended(connection: socket.socket) -> bool:
    """Send one byte more, and see whether the other side has had enough."""
    try:
        connection.sendall(b"x")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.mark.promise("http-bounds")
def test_half_requests_are_bounded_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_server, "MOST_SECONDS", 0.8)
    with health_server("127.0.0.1", 0, RunMetrics(), Health(60)) as port, ExitStack() as strangers:
        before = threading.active_count()
        half = []
        for _ in range(60):
            half.append(strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)))
            half[-1].sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        assert fetch(port, "/healthz") == (200, "ok\n")
        # Sixty are asked for; whatever else this process has begun meanwhile is few.
        assert threading.active_count() - before <= bounded_server.MOST_CONNECTIONS + 4
        # One that trickles on is ended all the same, a byte before its time being no request.
        begun = time.monotonic()
        last = strangers.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        while time.monotonic() - begun < 10 and not ended(last):
            pass
        assert 0.5 <= time.monotonic() - begun < 6
        assert fetch(port, "/metrics")[0] == 200


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6: --metrics-address ::1 is not tried")
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_it_listens_on_ipv6(address: str) -> None:
    with health_server(address, 0, RunMetrics(), Health(60)) as port:
        with urllib.request.urlopen(f"http://[::1]:{port}/healthz", timeout=30) as answer:
            assert answer.read() == b"ok\n"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("address", ["192.0.2.7", "no such host", "2001:db8::1"])
def test_an_address_of_another_machine_is_refused(address: str) -> None:
    server = health_server(address, 0, RunMetrics(), Health(60))
    with pytest.raises(ValueError, match=r"--metrics-address .*no such address"), server:
        raise AssertionError("listening for another machine")


SMUGGLED = (
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    b"GET /%0d%0aSet-Cookie:x HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
)


@pytest.mark.promise("http-bounds")
def test_a_connection_has_one_answer_whatever_is_smuggled_in() -> None:
    with health_server("127.0.0.1", 0, RunMetrics(), Health(60)) as port:
        for sent in SMUGGLED:
            answer = b""
            with (
                socket.create_connection(("127.0.0.1", port), timeout=30) as line,
                contextlib.suppress(ConnectionResetError),
            ):
                line.sendall(sent)
                while part := line.recv(1 << 16):
                    answer += part
            assert answer.count(b"HTTP/1.") <= 1
            assert b"sca_" not in answer
            assert b"\r\nSet-Cookie" not in answer


ODD = (
    b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=abc; q=nan\r\n\r\n",
    b"GET /metrics?name[]=%ff%00&&name[]&=&name[]=\xff HTTP/1.1\r\nAccept-Encoding: gzip;q=x\r\n\r\n",
    b"FOO\0BAR /healthz HTTP/1.1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n\r\n",
    b"DELETE /metrics HTTP/1.1\r\n\r\n",
    b"GET /%2e%2e/%00%ff HTTP/1.1\r\nHost: ../\x1b[2J\r\n\xff\xfe: \xff\r\n\r\n",
    b"GET //evil.example/readyz HTTP/1.999999999999999999999999\r\n\r\n",
    b"GET /readyz HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(200),
    b"A" * 1_000_000,
)


@pytest.mark.promise("http-bounds")
@pytest.mark.parametrize("sent", ODD)
def test_no_request_makes_an_error_of_ours_or_a_line_on_the_terminal(
    sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = b""
    with health_server("127.0.0.1", 0, RunMetrics(), Health(60)) as port:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as line,
            contextlib.suppress(OSError),
        ):
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)  # or what never ends a line would be waited for
            while part := line.recv(1 << 16):
                answer += part
        assert b" 500 " not in answer.split(b"\r\n")[0]
        assert fetch(port, "/healthz") == (200, "ok\n")
    assert capfd.readouterr() == ("", "")


def test_only_a_question_is_answered_and_a_head_has_no_body() -> None:
    health = Health(60)
    health.running({"a\x1b[2J\r\nb": False})
    with health_server("127.0.0.1", 0, RunMetrics(), health) as port:
        for method, path, code in (
            ("POST", "/healthz", 405),
            ("HEAD", "/healthz", 200),
            ("HEAD", "/metrics", 200),
        ):
            line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            line.request(method, path)
            answer = line.getresponse()
            assert answer.status == code
            assert answer.getheader("Allow") == ("GET, HEAD" if code == 405 else None)
            line.close()
        # What would act on a terminal is written out.
        assert fetch(port, "/readyz") == (503, "not up: a\\x1b[2J\\r\\nb\n")
