"""Health and metrics over HTTP, without a run behind them."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.core.records import Gap
from pipeline.runtime.progress import StreamProgress
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
    metrics.progress(StreamProgress("a", None, frames=7, keyframes=3, captions_avoided=5, reconnects=2))
    metrics.progress(StreamProgress("b", None, frames=1))
    metrics.progress(StreamProgress("a", None, frames=9, keyframes=4, captions_avoided=6, reconnects=2))
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
