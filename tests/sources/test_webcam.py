"""Webcams that hiccup, are pulled out or hang, through the door that a run uses; OpenCV's capture is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.records import ResumePoint
from pipeline.core.restarts import RestartPolicy
from pipeline.sources import SourceInfo, SourceKind, SourceOptions, open_source
from pipeline.sources.live import LiveStream
from pipeline.sources.webcam import Webcam
from tests.rtsp_camera import wait_for
from tests.source_watch import Watch

NS = 1_000_000_000
QUICK = SourceOptions(max_backoff_s=0.5)
PROMPT_S = 1.0
BLUE_BGR = (200, 30, 10)


class Device:
    """A webcam at fifty pictures a second. `there`: it works; `hangs`: "open", "read" or nothing waits for `go`."""

    def __init__(self) -> None:
        self.there = True
        self.hangs = ""
        self.go = threading.Event()
        self.size = (32, 24)
        self.opened: list[int | str] = []
        self.held = 0

    def wait(self, what: str) -> None:
        if self.hangs == what:
            self.go.wait(60)


class Capture:
    """What OpenCV gives for it."""

    def __init__(self, device: Device, address: int | str) -> None:
        self._device = device
        device.wait("open")
        device.opened.append(address)
        # Like a real one, it can be open once only.
        self._open = device.there and not device.held
        device.held += self._open

    def isOpened(self) -> bool:
        return self._open

    def read(self) -> tuple[bool, np.ndarray | None]:
        self._device.wait("read")
        time.sleep(0.02)
        if not self._device.there:
            return False, None
        width, height = self._device.size
        return True, np.full((height, width, 3), BLUE_BGR, np.uint8)

    def release(self) -> None:
        self._device.held -= self._open
        self._open = False


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr("cv2.VideoCapture", lambda address: Capture(device, address))
    yield device
    device.go.set()


def close_promptly(watch: Watch) -> None:
    begun = time.monotonic()
    watch.source.close()
    wait_for(lambda: watch.ended, "the end of the stream")
    assert time.monotonic() - begun < PROMPT_S


@pytest.mark.parametrize("uri", ["0", "/dev/video7"])
def test_gives_timed_frames_of_a_live_source(device: Device, uri: str) -> None:
    with Watch(open_source(uri, stream="door", options=QUICK)) as watch:
        watch.wait_frames(5)
    info = watch.source.info
    assert (info.stream, info.address, info.kind, info.width, info.height) == (
        *("door", uri, SourceKind.WEBCAM),
        *(32, 24),
    )
    assert info.fingerprint == f"webcam:{uri}"
    watch.check_order()
    steps = [
        (b.time.pts_ns - a.time.pts_ns, b.time.wall_ns - a.time.wall_ns) for a, b in pairwise(watch.frames)
    ]
    assert all(pts == pytest.approx(wall, abs=NS) for pts, wall in steps)
    assert watch.frames[-1].to_frame().rgb[0, 0].tolist() == list(reversed(BLUE_BGR))
    assert device.opened == [0 if uri == "0" else uri]
    wait_for(lambda: device.held == 0, "the device to be let go")


@pytest.mark.parametrize("policy", [RestartPolicy.ALWAYS, RestartPolicy.ON_ERROR])
def test_one_that_fails_for_a_while_comes_back_and_the_outage_is_told(
    device: Device, policy: RestartPolicy
) -> None:
    options = QUICK.model_copy(update={"reconnect": policy})
    with Watch(open_source("0", options=options)) as watch:
        watch.wait_frames(5)
        device.there = False
        wait_for(lambda: not watch.source.counts.connected, "the loss to be noticed")
        lost_ns, attempts = time.time_ns(), len(device.opened)
        wait_for(lambda: len(device.opened) >= attempts + 2, "attempts to open it again")
        assert not watch.ended
        device.size = (64, 48)
        device.there = True
        back_ns = time.time_ns()
        wait_for(lambda: watch.epoch == 1, "frames after the outage")
        watch.wait_frames(5)
        assert watch.source.counts.connected
    watch.check_order()
    assert watch.error is None
    assert watch.source.counts.reconnects == 1
    (outage,) = [gap for gap in watch.gaps if gap.reason == "outage"]
    assert outage.start_ns <= lost_ns < back_ns <= outage.end_ns
    # Another camera may have been plugged in: pixels stay those of the stream.
    assert watch.frames[-1].to_frame().rgb.shape == (24, 32, 3)


def test_under_never_its_loss_is_one_clear_error(device: Device) -> None:
    options = QUICK.model_copy(update={"reconnect": RestartPolicy.NEVER})
    with Watch(open_source("0", options=options)) as watch:
        watch.wait_frames(3)
        device.there = False
        wait_for(lambda: watch.ended, "the end of the stream")
    assert isinstance(watch.error, ValueError)
    assert str(watch.error).startswith(
        "0: the connection was lost: it gives no pictures; check that it is plugged in"
    )
    assert len(device.opened) == 1


@pytest.mark.parametrize("how", ["absent", "no pictures"])
def test_one_that_cannot_be_opened_is_one_clear_error(
    device: Device, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.there = False
    if how == "no pictures":
        monkeypatch.setattr(Capture, "isOpened", lambda self: True)
    with pytest.raises(ValueError, match=r"^0: cannot connect: .*; check that it is plugged in"):
        open_source("0")
    with pytest.raises(ValueError, match="--start"):
        open_source("0", start_ns=0)


def test_one_that_is_plugged_in_again_ends_the_pause_between_attempts(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.live.backoff_s", lambda failures, draw, longest: 600.0)
    node = tmp_path / "video0"
    node.touch()
    with Watch(LiveStream(Webcam(str(node)), stream="door")) as watch:
        watch.wait_frames(3)
        node.unlink()
        device.there = False
        wait_for(lambda: not watch.source.counts.connected, "the loss to be noticed")
        time.sleep(1)
        device.there = True
        node.touch()
        wait_for(lambda: watch.epoch == 1, "frames long before the pause is over")


def test_a_known_one_is_waited_for_and_the_time_since_is_told(device: Device) -> None:
    device.there = False
    known = SourceInfo("old", "0", SourceKind.WEBCAM, 32, 24, time.time_ns() - 90 * NS, "webcam:0")
    source = open_source("0", stream="door", known=known, options=QUICK)
    point = ResumePoint(pts_ns=5 * NS, frame=99, epoch=3, wall_ns=time.time_ns() - 10 * NS)
    source.resume_after(point)
    with Watch(source) as watch:
        wait_for(lambda: len(device.opened) >= 2, "attempts to open it")
        assert not watch.frames
        device.there = True
        wait_for(lambda: len(watch.frames) >= 3, "frames once it is there")
    watch.check_order()
    assert (watch.gaps[0].reason, watch.gaps[0].start_ns) == ("outage", point.wall_ns + 1)
    assert watch.frames[0].index >= 100
    assert watch.frames[0].time.epoch == 4


def test_one_that_was_closed_can_be_opened_at_once(device: Device) -> None:
    for _ in range(3):
        source = open_source("0")
        source.close()
        assert device.held == 0
        assert list(source) == []


def test_stops_at_once_while_playing_away_or_hanging(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.live.backoff_s", lambda failures, draw, longest: 600.0)
    for state in ("playing", "away", "read"):
        with Watch(open_source("0")) as watch:
            watch.wait_frames(2)
            device.there = state != "away"
            device.hangs = state
            if state == "away":
                wait_for(lambda: not watch.source.counts.connected, "the loss")
            else:
                time.sleep(0.2)
            close_promptly(watch)
        device.there, device.hangs = True, ""
        device.go.set()
        wait_for(lambda: device.held == 0, "the device to be let go")
        device.go.clear()
    device.hangs = "open"
    known = SourceInfo("door", "0", SourceKind.WEBCAM, 32, 24, time.time_ns(), "webcam:0")
    with Watch(open_source("0", known=known)) as watch:
        time.sleep(0.2)
        close_promptly(watch)
