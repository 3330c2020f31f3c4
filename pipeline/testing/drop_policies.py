"""What every drop policy keeps: see `pipeline.core.dropping.DropPolicy`."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pipeline.core.clock import NS
from pipeline.core.dropping import DropPolicy
from pipeline.core.frame import Frame, FrameTime
from pipeline.core.records import Gap, ResumePoint
from pipeline.keyframes.buffer import KeyframeBuffer, ReadStep
from pipeline.keyframes.reader import SourceStep
from pipeline.sources import SourceCounts

_PATIENCE_S = 30


def step(index: int, *, ended: bool = False) -> tuple[SourceStep, Frame | None]:
    """The keyframe at second `index`, or the end of the stream there."""
    reached = ResumePoint(index * NS, index, 0, index * NS)
    told = SourceStep(not ended, (), SourceCounts(frames=index + 1), reached, ended)
    pixels = np.zeros((2, 2, 3), np.uint8)
    return told, None if ended else Frame("s", index, FrameTime(index * NS, index * NS), pixels)


class DropPolicyTests:
    """Subclass it and say `policy`."""

    def policy(self) -> DropPolicy:
        """The policy."""
        raise NotImplementedError

    def test_it_says_who_goes_or_that_the_source_waits_and_is_pure(self) -> None:
        policy = self.policy()
        draw = np.random.default_rng(0)
        for _ in range(200):
            times = tuple(sorted(int(t) for t in draw.integers(0, 10**12, draw.integers(2, 9))))
            *waiting, newcomer = times
            gone = policy.gives_way(waiting, newcomer)
            assert gone is None or 0 <= gone <= len(waiting)
            assert policy.gives_way(list(waiting), newcomer) == gone

    @pytest.mark.parametrize("buffer", [1, 2, 7])
    def test_there_is_a_place_at_least(self, buffer: int) -> None:
        assert self.policy().places(buffer) >= 1

    @pytest.mark.parametrize("credits", [1, 2, 4, 16])
    def test_it_reads_when_nothing_is_on_the_way_and_never_beyond_the_credits(self, credits: int) -> None:
        policy = self.policy()
        assert policy.may_read(0, 0, credits)
        for waiting in range(credits + 2):
            assert not policy.may_read(waiting, credits, credits)

    @pytest.mark.parametrize("seed", range(8))
    def test_every_keyframe_is_seen_or_told_missing(self, seed: int) -> None:
        """Bursts behind a decoder and a reader that takes one now and then: seen and dropped add up, in order."""
        draw = np.random.default_rng(seed)
        buffer = KeyframeBuffer(self.policy(), int(draw.integers(1, 6)))
        total = 40
        items: list[ReadStep] = []

        def read() -> None:
            while not items or not items[-1].step.ended:
                item = buffer.take(_PATIENCE_S)
                assert item is not None
                items.append(item)
                pause.wait(float(draw.choice([0, 0, 0.003])))

        pause = threading.Event()
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        for index in range(total):
            assert buffer.put(*step(index))
        assert buffer.put(*step(total, ended=True))
        reader.join(_PATIENCE_S)
        assert not reader.is_alive()
        seen = [item.frame.index for item in items if item.frame is not None]
        gaps = [gap for item in items for gap in item.step.gaps if isinstance(gap, Gap)]
        assert seen == sorted(set(seen))
        assert all(gap.reason == "dropped" for gap in gaps)
        assert len(seen) + sum(gap.frames for gap in gaps) == total
        missing = sorted(set(range(total)) - set(seen))
        told = sorted(
            index
            for gap in gaps
            for index in missing
            if gap.start_ns <= index * NS < gap.end_ns or gap.start_ns == index * NS
        )
        assert told == missing, "each gap lies where its keyframes were"
