"""CHOTA of annotated clips: by hand on small cases, and beside trackeval where captions do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trackeval.metrics import HOTA, Identity

from pipeline.core.regions import box_iou
from pipeline.evaluation.annotations import AnnotatedFrame, Thing
from pipeline.evaluation.chota import Moment, chota, moments_of
from pipeline.evaluation.naming import SaidRegion, judge_frame

BOX = (0.0, 0.0, 1.0, 1.0)
FAR = (5.0, 5.0, 6.0, 6.0)
HALF = (0.0, 0.0, 1.0, 0.52)  # IoU .52 with BOX: ten of the nineteen thresholds


def moment(
    things: dict[int, tuple[float, ...]], tracks: dict[int, tuple[float, ...]], right: bool | list[list[bool]]
) -> Moment:
    return Moment(
        np.array(list(things), np.int64),
        np.array(list(things.values()), np.float64).reshape(-1, 4),
        np.array(list(tracks), np.int64),
        np.array(list(tracks.values()), np.float64).reshape(-1, 4),
        np.full((len(things), len(tracks)), right) if isinstance(right, bool) else np.array(right, bool),
    )


def test_one_thing_that_is_found_followed_and_named_everywhere_is_all_there_is() -> None:
    found = chota([moment({1: BOX}, {7: BOX}, True)] * 3)
    assert (found.deta, found.assa, found.capa, found.hota, found.chota, found.idf1) == (1,) * 6


def test_a_wrong_name_takes_the_captions_share_alone() -> None:
    found = chota([moment({1: BOX}, {7: BOX}, True), moment({1: BOX}, {7: BOX}, False)])
    assert (found.deta, found.assa, found.capa, found.idf1) == (1, 1, 0.5, 1)
    assert found.chota == pytest.approx(0.5 ** (1 / 3))


def test_a_track_that_changes_takes_the_association_alone() -> None:
    found = chota([moment({1: BOX}, {track: BOX}, True) for track in (7, 7, 7, 8)])
    # Three pictures with 3 of 4, one with 1 of 4.
    assert found.assa == pytest.approx((3 * 3 / 4 + 1 / 4) / 4)
    assert (found.deta, found.capa) == (1, 1)
    assert found.hota == pytest.approx(math.sqrt(found.assa))
    assert found.idf1 == pytest.approx(2 * 3 / (4 + 4))


def test_what_is_missed_and_what_is_nothing_count_against_what_is_found() -> None:
    found = chota([moment({1: BOX, 2: FAR}, {7: BOX, 8: (9, 9, 10, 10)}, True)])
    assert found.deta == pytest.approx(1 / 3)
    assert (found.assa, found.capa) == (1, 1)
    assert found.idf1 == pytest.approx(0.5)


def test_a_box_that_fits_half_counts_at_half_of_the_thresholds() -> None:
    found = chota([moment({1: BOX}, {7: HALF}, True)])
    assert found.deta == pytest.approx(10 / 19)
    assert found.chota == pytest.approx(10 / 19)
    assert found.idf1 == 1


def test_nothing_shown_is_nothing_found_and_nothing_annotated_is_no_measure() -> None:
    nothing = chota([moment({1: BOX}, {}, True)])
    assert (nothing.deta, nothing.chota, nothing.idf1) == (0, 0, 0)
    assert math.isnan(chota([moment({}, {7: BOX}, True)]).chota)
    assert math.isnan(chota([]).chota)


_BOXES = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 5)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
_IDENTIFIED = st.dictionaries(st.integers(0, 4), _BOXES, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(_IDENTIFIED, _IDENTIFIED), min_size=1, max_size=5))
def test_without_captions_it_is_trackevals(pictures: list[tuple[dict, dict]]) -> None:
    moments = [moment(things, tracks, True) for things, tracks in pictures]
    found = chota(moments)
    if not any(things for things, _ in pictures):
        assert math.isnan(found.hota)
        return
    things = sorted({key for one, _ in pictures for key in one})
    tracks = sorted({key for _, one in pictures for key in one})
    data = {
        "num_tracker_dets": sum(len(m.tracks) for m in moments),
        "num_gt_dets": sum(len(m.things) for m in moments),
        "num_gt_ids": len(things),
        "num_tracker_ids": len(tracks),
        "gt_ids": [np.searchsorted(things, m.things) for m in moments],
        "tracker_ids": [np.searchsorted(tracks, m.tracks) for m in moments],
        "similarity_scores": [box_iou(m.thing_boxes, m.track_boxes) for m in moments],
    }
    theirs = HOTA().eval_sequence(data)
    for name, ours in (("HOTA", found.hota), ("DetA", found.deta), ("AssA", found.assa)):
        assert ours == pytest.approx(float(np.mean(theirs[name])), abs=1e-9), name
    assert found.idf1 == pytest.approx(float(Identity({"PRINT_CONFIG": False}).eval_sequence(data)["IDF1"]))
    # Named rightly everywhere, it is the third root of both.
    assert found.chota <= 1 + 1e-9
    assert chota([moment(a, b, False) for a, b in pictures]).chota == 0


def test_things_of_one_name_are_one_thing_unless_a_picture_has_two() -> None:
    def frame(t_s: float, *things: Thing) -> AnnotatedFrame:
        return AnnotatedFrame("clip.mp4", t_s, 100, 100, things)

    swan = Thing("swan", (0.0, 0.0, 0.5, 0.5), ("swan", "bird"))
    first, second = (Thing("cup", (x, 0.6, x + 0.2, 0.9), ("cup",)) for x in (0.1, 0.6))
    said = [
        SaidRegion(3, (0, 0, 50, 50), "a white bird", 0.9),
        SaidRegion(4, (10, 60, 30, 90), "a dog", 0.3),
        SaidRegion(5, (60, 60, 80, 90), "a cup", 0.9, repeated=True),
    ]
    frames = [judge_frame(frame(t, swan, first, second), said) for t in (1.0, 2.0)]
    moments = moments_of(frames)
    assert moments[0].things[0] == moments[1].things[0]
    assert len({*moments[0].things.tolist(), *moments[1].things.tolist()}) == 5
    assert moments[0].right.tolist() == [[True, False, False], [False, False, True], [False, False, True]]
    assert [len(m.tracks) for m in moments_of(frames, min_score=0.5)] == [2, 2]
    assert [len(m.tracks) for m in moments_of(frames, min_score=0.5, repeats=False)] == [1, 1]
