"""Cost follows change: a scene that stands is looked at now and then, and no scripted change goes unseen."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.gate import CaptionGateOptions
from pipeline.core.clock import NS
from pipeline.core.frame import Frame, FrameTime
from pipeline.core.regions import AnalysedKeyframe
from pipeline.perception.perceiver import Perception
from pipeline.perception.probing import PerceptionOptions, ProbeOptions
from pipeline.runtime.stream_analysis import StreamAnalysis
from pipeline.tracking.interface import TrackingOptions
from sca.predictor import Predictor
from tests.duration import by_day

SIZE = (96, 160)
STEP_NS = NS // 2
STILL_S = 20.0


def analysis_of(predictor: Predictor, still_s: float = STILL_S) -> StreamAnalysis:
    options = PerceptionOptions(
        min_predicted_iou=0,
        min_stability=0,
        min_area=0,
        max_area=1,
        still_s=still_s,
        probing=ProbeOptions(grid=6, budget=5, first_budget=20),
    )
    return StreamAnalysis(
        "door", Perception(predictor, options), TrackingOptions(), CaptionGateOptions(), next_track=1
    )


def scene(thing: int | None, keyframe: int) -> Frame:
    """A wall with a pattern and, in one of six places, a thing; with the noise of a camera."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    wall = 90 + 20 * np.sin(rows / 7) + 20 * np.cos(columns / 11)
    rgb = np.stack([wall, wall + 15, wall - 15], axis=-1)
    if thing is not None:
        x, y = 10 + 48 * (thing % 3), 10 + 44 * (thing // 3)
        rgb[y : y + 28, x : x + 36] = (220, 40, 60)
    rgb += np.random.default_rng(keyframe).standard_normal(SIZE)[..., None]
    time = FrameTime(keyframe * STEP_NS, keyframe * STEP_NS)
    return Frame("door", keyframe, time, np.clip(rgb, 0, 255).astype(np.uint8))


# The scenes of a script and how many keyframes each lasts.
scripts = st.lists(st.tuples(st.none() | st.integers(0, 5), st.integers(1, 14)), min_size=1, max_size=4)


@settings(max_examples=by_day(8, 200))
@given(scripts)
def test_no_scripted_change_goes_unseen_and_what_stands_stays(
    tiny_predictor: Predictor, script: list[tuple[int | None, int]]
) -> None:
    analysis = analysis_of(tiny_predictor)
    keyframe, avoided, shown = 0, 0, object()
    last: AnalysedKeyframe | None = None
    for thing, lasts in script:
        for _ in range(lasts):
            now, _ = analysis.keyframe(scene(thing, keyframe))
            looked = now.avoided.looks == avoided
            assert looked or thing == shown, "a change that nobody looked at"
            if not looked:
                # What is not looked at is as it was, masks and all.
                assert last is not None
                assert now.regions.masks == last.regions.masks
                np.testing.assert_array_equal(now.regions.boxes, last.regions.boxes)
                np.testing.assert_array_equal(now.regions.features, last.regions.features)
                assert set(last.regions.track_ids) - {-1} <= set(now.regions.track_ids)
            keyframe, avoided, shown, last = keyframe + 1, now.avoided.looks, thing, now


def test_a_minute_of_a_scene_that_stands_is_looked_at_eight_times(tiny_predictor: Predictor) -> None:
    analysis = analysis_of(tiny_predictor)
    reports = [analysis.keyframe(scene(2, keyframe))[0] for keyframe in range(120)]
    avoided = reports[-1].avoided
    # Six looks at first, then one every twenty seconds.
    assert avoided.looks == 120 - 8
    assert avoided.prompts > 0


def test_whoever_wants_each_keyframe_looked_at_gets_it(tiny_predictor: Predictor) -> None:
    analysis = analysis_of(tiny_predictor, still_s=0)
    reports = [analysis.keyframe(scene(2, keyframe))[0] for keyframe in range(8)]
    assert reports[-1].avoided.looks == 0
    assert reports[-1].avoided.prompts == 0


def test_what_is_described_anew_is_captioned_again_and_says_so(tiny_predictor: Predictor) -> None:
    analysis = analysis_of(
        tiny_predictor, still_s=0
    )  # nothing is taken for standing: each look describes anew, now and then
    known: set[int] = set()
    again = 0
    for keyframe in range(8):
        _, requests = analysis.keyframe(scene(0, keyframe))
        assert all(request.track in known for request in requests if request.again)
        again += sum(request.again for request in requests)
        known |= {request.track for request in requests}
    assert again
