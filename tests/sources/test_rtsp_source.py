"""RTSP cameras that fail in every way, through the door that a run uses: each recovers or says clearly why not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.core.frame import ClockSource
from pipeline.core.records import ResumePoint
from pipeline.core.restarts import RestartPolicy
from pipeline.sources import DecodedFrame, SourceOptions, open_source
from pipeline.sources.network import answers
from tests.rtsp_camera import RtspCamera, needs_rtsp_server, wait_for
from tests.source_watch import Watch

pytestmark = pytest.mark.promise("sent-once")

pytestmark = needs_rtsp_server

NS = 1_000_000_000
QUICK = SourceOptions(stall_timeout_s=1.5, max_backoff_s=2.0)
# Close to a second, and safe from a machine that is busy with other things.
PROMPT_S = 1.0


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[RtspCamera]:
    with RtspCamera(tmp_path) as camera:
        yield camera


def close_promptly(source) -> None:  # type: ignore[no-untyped-def]
    begun = time.monotonic()
    source.close()
    for _ in source:
        pass
    assert time.monotonic() - begun < PROMPT_S


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_connects_and_gives_timed_frames(camera: RtspCamera, transport: str) -> None:
    source = open_source(camera.url, options=SourceOptions(rtsp_transport=transport))
    assert (source.info.width, source.info.height) == (320, 192)
    assert source.info.live
    with Watch(source) as watch:
        watch.wait_frames(30)
    watch.check_order()
    assert watch.error is None
    times = [frame.time for frame in watch.frames]
    assert {time.epoch for time in times} == {0}
    # Ten pictures a second, by the camera's own time stamps: on a busy machine some are skipped, none is moved.
    steps = [(b.pts_ns - a.pts_ns) / NS for a, b in pairwise(times[10:])]
    assert all(step == pytest.approx(round(step * 10) / 10, abs=0.02) for step in steps)
    assert watch.frames[-1].to_frame().rgb.shape == (192, 320, 3)


def test_the_senders_clock_is_used_once_it_is_known(camera: RtspCamera) -> None:
    camera.set_clock_back(3)
    with Watch(open_source(camera.url)) as watch:
        watch.wait_frames(3)
        watch.wait_clock(ClockSource.RTCP)
        # Where the two clocks differ, time runs at half speed until the camera's is reached.
        wait_for(
            lambda: abs(time.time_ns() - watch.frames[-1].time.wall_ns - 3 * NS) < NS,
            "the camera's own clock",
        )
    assert watch.frames[0].time.clock is ClockSource.ARRIVAL
    watch.check_order()


def test_a_camera_whose_clock_is_set_back_an_hour_keeps_its_rows_in_order(camera: RtspCamera) -> None:
    with Watch(open_source(camera.url)) as watch:
        watch.wait_clock(ClockSource.RTCP)
        camera.set_clock_back(3600)
        watch.wait_clock(ClockSource.ARRIVAL)
        watch.wait_frames(10)
    watch.check_order()
    assert abs(watch.frames[-1].time.wall_ns - time.time_ns()) < 60 * NS
    assert watch.source.counts.reconnects == 0


def test_a_killed_server_is_reconnected_to_and_the_outage_told(camera: RtspCamera) -> None:
    with Watch(open_source(camera.url, options=QUICK)) as watch:
        watch.wait_frames(5)
        camera.kill()
        wait_for(lambda: not watch.source.counts.connected, "the loss to be noticed")
        killed_ns = time.time_ns()
        time.sleep(1)
        camera.start()
        back_ns = time.time_ns()
        wait_for(lambda: watch.epoch == 1, "frames after the restart")
        watch.wait_frames(5)
    watch.check_order()
    assert watch.source.counts.reconnects == 1
    (outage,) = [gap for gap in watch.gaps if gap.reason == "outage"]
    assert outage.start_ns <= killed_ns < back_ns <= outage.end_ns
    first_after = next(frame for frame in watch.frames if frame.time.epoch == 1)
    last_before = [frame for frame in watch.frames if frame.time.epoch == 0][-1]
    # The stream's own clock goes on through the outage, so that offsets stay what a viewer expects.
    apart_ns = first_after.time.wall_ns - last_before.time.wall_ns
    assert first_after.time.pts_ns - last_before.time.pts_ns == pytest.approx(apart_ns, abs=NS)


def test_a_camera_that_listens_again_ends_the_pause_between_attempts(
    camera: RtspCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.live.backoff_s", lambda failures, draw, longest: 600.0)
    with Watch(open_source(camera.url)) as watch:
        watch.wait_frames(3)
        camera.kill()
        wait_for(lambda: not watch.source.counts.connected, "the loss to be noticed")
        time.sleep(2)
        camera.start()
        wait_for(lambda: watch.epoch == 1, "frames long before the pause is over")


def test_whether_somebody_listens_is_asked_without_a_password() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"rtsp://viewer:${{file:/run/secrets/x}}@127.0.0.1:{listening.getsockname()[1]}/cam"
        assert answers(url) is True
        taken, _ = listening.accept()
        with taken:
            assert taken.recv(100) == b""
    assert answers(url) is False
    assert answers("udp://127.0.0.1:9") is None
    assert answers("rtsp://[bad") is None


@pytest.mark.parametrize("how", ["no packets", "frozen host"])
def test_a_silent_stall_is_noticed_and_told(camera: RtspCamera, how: str) -> None:
    with Watch(open_source(camera.url, options=QUICK)) as watch:
        watch.wait_frames(5)
        if how == "no packets":
            camera.tell("stall")
        else:
            camera.freeze()
        wait_for(lambda: not watch.source.counts.connected, "the stall to be noticed")
        assert not watch.ended
        if how == "no packets":
            camera.tell("go")
        else:
            camera.thaw()
        wait_for(lambda: watch.epoch >= 1, "frames after the stall")
        watch.wait_frames(5)
    watch.check_order()
    assert "outage" in watch.reasons()


def test_an_outage_that_lasts_is_told_while_it_lasts(
    camera: RtspCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.unwatched._PIECE_NS", NS)
    with Watch(open_source(camera.url, options=QUICK)) as watch:
        watch.wait_frames(3)
        camera.kill()
        wait_for(lambda: watch.reasons().count("outage") >= 2, "pieces of the outage")
        camera.start()
        wait_for(lambda: watch.epoch >= 1, "frames after the outage")
    watch.check_order()
    outages = [gap for gap in watch.gaps if gap.reason == "outage"]
    assert all(a.end_ns == b.start_ns for a, b in pairwise(outages))


def test_a_change_of_resolution_keeps_the_streams_pixels(camera: RtspCamera) -> None:
    with Watch(open_source(camera.url)) as watch:
        watch.wait_frames(10)
        camera.tell("size 640 384")
        watch.wait_frames(30)
        camera.tell("size 160 128")
        watch.wait_frames(30)
    watch.check_order()
    assert watch.error is None
    assert watch.source.counts.reconnects == 0
    assert {frame.to_frame().rgb.shape for frame in watch.frames[-5:]} == {(192, 320, 3)}


def test_time_stamps_that_start_anew_open_an_epoch(camera: RtspCamera) -> None:
    with Watch(open_source(camera.url)) as watch:
        watch.wait_frames(40)
        camera.tell("shift -3")
        wait_for(lambda: watch.epoch == 1, "a new epoch")
        watch.wait_frames(10)
    watch.check_order()
    assert watch.source.counts.reconnects == 0
    assert {frame.time.epoch for frame in watch.frames} == {0, 1}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_third_of_all_packets_lost_is_survived(tmp_path: Path, transport: str) -> None:
    with RtspCamera(tmp_path, "--pattern", "snow", "--kbps", "1500") as camera:
        source = open_source(camera.url, options=SourceOptions(rtsp_transport=transport))
        with Watch(source) as watch:
            watch.wait_frames(5)
            camera.tell("loss 0.3")
            wait_for(lambda: source.counts.corrupt >= 5, "damaged pictures")
            camera.tell("loss 0")
            damaged = source.counts.corrupt
            watch.wait_frames(20)
        watch.check_order()
        assert damaged >= 5
        assert source.counts.corrupt < damaged + 20
        assert sum(gap.frames for gap in watch.gaps if gap.reason == "corrupt") == source.counts.corrupt


def test_damaged_pictures_are_told_as_gaps(tmp_path: Path) -> None:
    with RtspCamera(tmp_path, "--pattern", "snow", "--kbps", "1500") as camera:
        source = open_source(camera.url)
        with Watch(source) as watch:
            watch.wait_frames(5)
            camera.tell("corrupt 0.001")
            wait_for(lambda: source.counts.corrupt >= 3, "damaged pictures")
            camera.tell("corrupt 0")
            watch.wait_frames(20)
        watch.check_order()
        assert "corrupt" in watch.reasons()
        assert watch.error is None


def test_a_slow_consumer_gets_the_newest_frame(camera: RtspCamera) -> None:
    source = open_source(camera.url)
    events = iter(source)
    told = 0
    last = None
    for _ in range(4):
        frame = None
        while not isinstance(frame, DecodedFrame):
            frame = next(events)
            if frame is not None and not isinstance(frame, DecodedFrame) and frame.reason == "dropped":
                told += frame.frames
        last = frame
        time.sleep(1.0)
    assert last is not None
    # At ten pictures a second, whoever looks once a second would be thirty behind if nothing were dropped.
    assert last.index >= 15
    assert 0 < told <= source.counts.dropped
    close_promptly(source)


def test_a_wrong_password_is_one_clear_error_and_is_not_tried_again(tmp_path: Path) -> None:
    with RtspCamera(tmp_path, login="viewer:open-sesame") as camera:
        for credentials in ("", "viewer:hunter2", "hunter2:open-sesame"):
            begun = time.monotonic()
            with pytest.raises(ValueError, match="password is refused") as error:
                open_source(camera.url_as(credentials))
            assert time.monotonic() - begun < 10
            assert "hunter2" not in str(error.value)
            assert "\n" not in str(error.value)
        with Watch(open_source(camera.url_as("viewer:open-sesame"))) as watch:
            watch.wait_frames(3)


def test_a_password_that_was_accepted_before_is_tried_again_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[int] = []

    def pause_s(refusals: int) -> float:
        pauses.append(refusals)
        return 2.0

    monkeypatch.setattr("pipeline.sources.live.refused_pause_s", pause_s)
    with RtspCamera(tmp_path, login="viewer:open-sesame") as camera:
        with Watch(open_source(camera.url_as("viewer:open-sesame"), options=QUICK)) as watch:
            watch.wait_frames(3)
            camera.kill()
            login = tmp_path / "camera-login"
            login.write_text("viewer:another")
            camera.start()
            wait_for(lambda: pauses == [0, 1], "two refusals, whatever listens there")
            camera.kill()
            login.write_text("viewer:open-sesame")
            camera.start()
            wait_for(lambda: watch.epoch == 1, "frames, now that it is taken again")
            assert not watch.ended
        told = [message for message in caplog.messages if "password is refused" in message]
        assert len(told) == len(pauses)
        assert all("accepted before" in message and "open-sesame" not in message for message in told)
        assert watch.source.counts.reconnects == 1


def test_a_password_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    with RtspCamera(tmp_path, login="viewer:p@ss/w:rd %?#") as camera:
        monkeypatch.setenv("CAMERA_PASSWORD", "p@ss/w:rd %?#")
        secret.write_text("p@ss/w:rd %?#\n")
        for blank in ("${CAMERA_PASSWORD}", f"${{file:{secret}}}"):
            with Watch(open_source(camera.url_as(f"viewer:{blank}"))) as watch:
                watch.wait_frames(1)
                assert watch.source.info.address == camera.url
        secret.write_text("wrong\n")
        with pytest.raises(ValueError, match="password is refused"):
            open_source(camera.url_as(f"viewer:${{file:{secret}}}"))


@pytest.mark.parametrize("policy", [RestartPolicy.NEVER, RestartPolicy.ON_ERROR])
def test_the_policy_decides_about_reconnecting(camera: RtspCamera, policy: RestartPolicy) -> None:
    options = QUICK.model_copy(update={"reconnect": policy})
    with Watch(open_source(camera.url, options=options)) as watch:
        watch.wait_frames(3)
        camera.kill()
        camera.start()
        if policy is RestartPolicy.NEVER:
            wait_for(lambda: watch.ended, "the end of the stream")
            assert "connection was lost" in str(watch.error)
        else:
            wait_for(lambda: watch.epoch == 1, "frames after the restart")


def test_a_known_camera_that_is_off_is_waited_for(camera: RtspCamera) -> None:
    source = open_source(camera.url, stream="yard")
    close_promptly(source)
    camera.kill()
    point = ResumePoint(pts_ns=5 * NS, frame=99, epoch=3, wall_ns=time.time_ns() - 60 * NS)
    again = open_source(camera.url, stream="yard", known=source.info, options=QUICK)
    again.resume_after(point)
    with Watch(again) as watch:
        wait_for(lambda: "outage" in watch.reasons(), "the outage so far")
        assert not watch.frames
        camera.start()
        wait_for(lambda: len(watch.frames) >= 5, "frames once it is on")
    watch.check_order()
    assert watch.gaps[0].start_ns == point.wall_ns + 1
    assert watch.frames[0].index >= 100
    assert watch.frames[0].time.epoch == 4


def test_stops_at_once_while_playing_stalled_and_away(camera: RtspCamera) -> None:
    for state in ("playing", "stalled", "away"):
        source = open_source(camera.url, options=SourceOptions(stall_timeout_s=2))
        events = iter(source)
        while not isinstance(next(events), DecodedFrame):
            pass
        if state == "stalled":
            camera.tell("stall")
        elif state == "away":
            camera.kill()
            wait_for(lambda: not source.counts.connected and next(events) is None, "the loss")  # noqa: B023
        begun = time.monotonic()
        source.close()
        # At most what had been decoded before.
        assert sum(isinstance(event, DecodedFrame) for event in events) <= 1
        assert time.monotonic() - begun < PROMPT_S
        if state == "stalled":
            camera.tell("go")


def test_a_host_that_never_answers_is_given_up_after_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"rtsp://viewer:hunter2@127.0.0.1:{silent.getsockname()[1]}/cam"
        with pytest.raises(ValueError, match="no answer within 1 s") as error:
            open_source(url, options=SourceOptions(open_timeout_s=1))
        assert "hunter2" not in str(error.value)
        source = open_source(url, known=_any_info(), options=SourceOptions(open_timeout_s=60))
        events = iter(source)
        assert next(events) is None
        close_promptly(source)


def _any_info():  # type: ignore[no-untyped-def]
    from pipeline.sources import SourceInfo, SourceKind

    return SourceInfo("cam", "rtsp://127.0.0.1/cam", SourceKind.LIVE, 320, 192, time.time_ns(), "live:x")
