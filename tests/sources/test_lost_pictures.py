"""Each picture that a camera sends is shown, dropped or counted as lost, whatever its time stamps do."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.records import Gap
from pipeline.core.restarts import LossCause, RestartPolicy
from pipeline.sources import DecodedFrame
from pipeline.sources.camera import ConnectionLost, Picture
from pipeline.sources.film_or_camera import FeedTiming
from pipeline.sources.live import LiveStream
from pipeline.sources.source import SourceCounts, SourceKind, SourceOptions
from tests.duration import by_day

FPS = 25


class Stamped:
    """A camera that sends a picture for each of `stamps` and then ends; None: one that is damaged."""

    kind = SourceKind.LIVE
    address = "rtsp://camera/1"
    fingerprint = "live:rtsp://camera/1"
    time_base = Fraction(1, FPS)
    timing = FeedTiming.STAMPED
    nominal_fps: float | None = FPS
    pixel_aspect = Fraction(1)

    def __init__(self, stamps: list[int | None]) -> None:
        self._stamps = stamps

    def connect(self) -> Stamped:
        return self

    def answers(self) -> bool | None:
        return None

    def close(self) -> None:
        pass

    def pictures(self) -> Iterator[Picture]:
        for stamp in self._stamps:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp or 0, self.time_base
            yield Picture(frame, None, damaged=stamp is None)
        raise ConnectionLost("over", LossCause.OVER)


def watched(stamps: list[int | None]) -> tuple[SourceCounts, list[DecodedFrame | Gap | None]]:
    source = LiveStream(Stamped(stamps), stream="cam", options=SourceOptions(reconnect=RestartPolicy.NEVER))
    events = list(source)
    source.close()
    return source.counts, events


@pytest.mark.promise("damaged-counted")
def test_pictures_whose_stamps_stand_still_are_a_gap_with_their_number() -> None:
    counts, events = watched([*range(10), *[9] * 20, *range(10, 20)])
    assert counts.corrupt == 20
    assert sum(event.frames for event in events if isinstance(event, Gap) and event.reason == "corrupt") == 20


@pytest.mark.promise("damaged-counted")
@settings(max_examples=by_day(30, 1000))
@given(stamps=st.lists(st.none() | st.integers(0, 200) | st.just(2**31), min_size=1, max_size=60))
@example(stamps=[*range(10), *[9] * 20, *range(10, 20)])  # they freeze
@example(stamps=[*range(20), *range(12, 30)])  # and step back by less than a second
@example(stamps=[*range(60), *range(60)])  # and by more
@example(stamps=[0, 2**31, 1, None, None, 2])
def test_every_picture_is_shown_dropped_or_counted(stamps: list[int | None]) -> None:
    stamps = [0, *stamps]
    counts, events = watched(stamps)
    frames = [event for event in events if isinstance(event, DecodedFrame)]
    lost = sum(event.frames for event in events if isinstance(event, Gap) and event.reason == "corrupt")
    assert counts.frames + counts.corrupt == len(stamps)
    assert len(frames) + counts.dropped == counts.frames
    walls = [frame.time.wall_ns for frame in frames]
    assert walls == sorted(set(walls))
    # What is lost behind the last good picture is told when the next one comes.
    assert lost <= counts.corrupt
    order = [frame.time.order for frame in frames]
    assert order == sorted(set(order))
