"""Things named: what a box and its words are worth against what a person would name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.clock import NS
from pipeline.core.errors import UserError
from pipeline.drawing.annotate import TrackPath
from pipeline.drawing.drawing import DisplayOptions
from pipeline.evaluation.annotations import AnnotatedFrame, Thing, find_clips, read_annotations
from pipeline.evaluation.naming import SaidRegion, Tally, judge_frame, says_one_of, tally
from pipeline.evaluation.things_named import ThingsReport, evaluate_things, regions_at
from pipeline.settings.config import load_config

MAN = Thing("man", (0.1, 0.1, 0.3, 0.9), ("man", "person"), ("shirt",))
DOG = Thing("dog", (0.5, 0.6, 0.7, 0.9), ("dog",))
OTHER_DOG = Thing("dog", (0.75, 0.6, 0.95, 0.9), ("dog",), hard=True)
GRASS = Thing("grass", (0.0, 0.5, 1.0, 1.0), ("grass", "lawn"), stuff=True)
FRAME = AnnotatedFrame("clip.mp4", 1.0, 100, 100, (MAN, DOG, OTHER_DOG, GRASS))


def said(text: str, *box: float, score: float = 0.9, repeated: bool = False) -> SaidRegion:
    x0, y0, x1, y1 = box
    return SaidRegion(1, (x0 * 100, y0 * 100, x1 * 100, y1 * 100), text, score, repeated)


@pytest.mark.parametrize(
    ("text", "nouns", "says"),
    [
        ("two dogs on the grass", ("dog",), True),
        ("a dogwood", ("dog",), False),
        ("The Women.", ("woman",), True),
        ("boxes", ("box",), True),
        ("a fire hydrant", ("fire hydrant",), True),
        ("a fire by a hydrant", ("fire hydrant",), False),
        ("a t-shirt", ("t-shirt",), True),
        ("glass", ("glas",), False),
        ("", ("dog",), False),
    ],
)
def test_a_text_says_its_words_in_singular_and_plural(text: str, nouns: tuple[str, ...], says: bool) -> None:
    assert says_one_of(text, nouns) is says


@pytest.mark.parametrize(
    ("region", "strict", "loose"),
    [
        (said("a man", *MAN.box), (1, 1, 1), (1, 1, 1)),
        (said("a woman", *MAN.box), (0, 1, 0), (0, 1, 0)),
        # A part of the thing is true and names nothing.
        (said("a shirt", *MAN.box), (0, 1, 1), (0, 1, 1)),
        # Half a dog is a dog to whoever looks.
        (said("a dog", 0.5, 0.6, 0.58, 0.9), (0, 0, 0), (1, 1, 1)),
        # Both dogs at once, in one box.
        (said("two dogs", 0.5, 0.6, 0.95, 0.9), (2, 1, 1), (2, 1, 1)),
        (said("two dogs", 0.45, 0.55, 0.95, 0.95), (0, 1, 0), (2, 1, 1)),
        # A piece of the lawn is the lawn, unless it is a thing of its own.
        (said("green grass", 0.2, 0.92, 0.9, 1.0), (1, 1, 1), (1, 1, 1)),
        (said("grass", *DOG.box), (0, 1, 0), (0, 1, 0)),
        # Over nothing that anybody named: nobody knows whether it is right.
        (said("a cloud", 0.6, 0.0, 0.9, 0.2), (0, 0, 0), (0, 0, 0)),
        (said("", *MAN.box), (0, 0, 0), (0, 0, 0)),
    ],
)
def test_what_one_region_is_worth(
    region: SaidRegion, strict: tuple[int, int, int], loose: tuple[int, int, int]
) -> None:
    judged = [judge_frame(FRAME, [region])]
    for reading, wanted in (("strict", strict), ("loose", loose)):
        found = tally(judged, reading)
        assert (found.named, found.judged, found.right) == wanted, reading


def test_a_region_without_the_name_is_found_and_its_words_count_from_their_score_on() -> None:
    judged = [
        judge_frame(FRAME, [said("a cat", *DOG.box, score=0.3), said("a man", *MAN.box, repeated=True)])
    ]
    assert tally(judged, "strict") == Tally(things=4, named=1, found=2, judged=2, right=1)
    assert tally(judged, "strict", min_score=0.4, repeats=False) == Tally(things=4, named=0, found=1)
    assert tally(judged, "strict", of=lambda thing: thing.hard) == Tally(things=1)


boxes = st.tuples(*[st.integers(0, 7)] * 4).map(
    lambda v: (v[0] / 16, v[1] / 16, (v[0] + v[2] + 1) / 16, (v[1] + v[3] + 1) / 16)
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(boxes, st.sampled_from(["a man", "a dog", "grass", ""])), max_size=6))
def test_what_is_strictly_right_is_loosely_right_too(regions: list[tuple[tuple[float, ...], str]]) -> None:
    judged = [judge_frame(FRAME, [said(text, *box) for box, text in regions])]
    strict, loose = tally(judged, "strict"), tally(judged, "loose")
    assert strict.named <= loose.named <= strict.things
    assert strict.judged <= loose.judged <= len(regions)
    assert strict.right <= loose.right <= loose.judged
    assert strict.named <= strict.found


def test_regions_are_those_of_the_nearest_keyframe_and_a_repeat_is_told() -> None:
    def path(track: int, box: tuple[float, ...], text: str, score: float) -> TrackPath:
        seen = np.array([0, NS, 2 * NS])
        return TrackPath(
            track,
            seen,
            np.add(box, [[0], [1], [2]]),
            seen[:1],
            seen[1:2],
            (text,),
            np.array([score]),
        )

    paths = [
        path(1, (0, 0, 9, 9), "a man", 0.6),
        path(2, (0, 0, 9, 8), "a man", 0.5),
        path(3, (0, 0, 9, 9), "x", 0.1),
    ]
    regions = regions_at(paths, round(1.2 * NS), DisplayOptions(), (100, 100))
    assert [(r.track, r.box[0], r.repeated) for r in regions] == [(1, 1, False), (2, 1, True), (3, 1, False)]
    assert regions_at(paths, 4 * NS, DisplayOptions(), (100, 100)) == []
    report = ThingsReport((judge_frame(FRAME, regions),), (), 0.4)
    assert "| all | 4 |" in report.text()


def test_annotations_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    entry = {
        "clip": "a.mp4",
        "t_s": 1,
        "w": 10,
        "h": 10,
        "things": [{"b": [0, 0, 1, 1], "heads": ["sky"], "kind": "stuff"}],
    }
    path.write_text(json.dumps([entry]))
    (frame,) = read_annotations(path)
    assert frame.things[0].stuff
    with pytest.raises(UserError, match=r"a\.mp4.*--clips"):
        find_clips([frame], [tmp_path])
    with pytest.raises(
        UserError, match=r"--only a\.mov: dev\.json annotates a\.mp4; did you mean 'a\.mp4'\?"
    ):
        evaluate_things(path, [tmp_path], load_config("default"), clips=["a.mov"])
    (tmp_path / "a.mp4").touch()
    assert find_clips([frame], [tmp_path / "none", tmp_path]) == {"a.mp4": tmp_path / "a.mp4"}
    for bad, word in (
        ({**entry, "clip": "../a.mp4"}, "clip"),
        ({**entry, "t_s": -1}, "t_s"),
        ({**entry, "things": [{"b": [0.5, 0, 0.2, 1], "heads": ["x"]}]}, "b"),
        ("x", "frame 0"),
    ):
        path.write_text(json.dumps([bad]))
        with pytest.raises(UserError, match=word):
            read_annotations(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="list"):
        read_annotations(path)
