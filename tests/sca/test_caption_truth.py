"""What is held against a caption of a region that nobody chose, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sca.data.annotations import AnnotatedImage, Box, Detection, RegionAnnotation
from sca.data.naming import same_thing, thing_named
from sca.training.caption_truth import PictureTruth, Truth

DOG: Box = (40, 50, 60, 80)
MAN: Box = (70, 10, 90, 90)


def region(box: Box, *phrases: str, loose: bool = False, score: float = 1.0) -> RegionAnnotation:
    return RegionAnnotation(box, phrases, 1, "", (), None, None, score, loose)


def picture(*regions: RegionAnnotation, detections: list[Detection] | None = None) -> PictureTruth:
    image = AnnotatedImage("0", Path("0.png"), "x", "train", 100, 100, 1.0, (), (), regions)
    return PictureTruth(image, np.ones(4), (100, 100), detections)


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("two red cars on the street", "car"),
        ("a man in a red shirt", "man"),
        ("women", "woman"),
        ("the grass", "grass"),
        ("A Dog.", "dog"),
        ("", ""),
    ],
)
def test_a_phrase_names_the_head_of_its_first_noun_phrase(phrase: str, noun: str) -> None:
    assert thing_named(phrase) == noun


def test_a_fair_reader_takes_a_boy_for_a_man_and_no_woman_for_one() -> None:
    for first, second in (("boy", "man"), ("person", "woman"), ("xylophone", "xylophone")):
        assert same_thing(first, second)
    for first, second in (("woman", "man"), ("cow", "dog")):
        assert not same_thing(first, second)


@pytest.mark.parametrize(
    ("text", "box", "truth"),
    [
        ("a brown puppy", DOG, Truth.RIGHT),
        ("a dog", (42, 52, 58, 66), Truth.RIGHT),  # a part of it
        ("a man", DOG, Truth.WRONG),  # another thing's name on a thing
        ("a cat", DOG, Truth.WRONG),
        ("a collar", DOG, Truth.UNKNOWN),  # it may have one
        ("a dog", (0, 60, 100, 100), Truth.WRONG),  # the ground before which it stands
        ("a man", (0, 0, 30, 40), Truth.WRONG),
        ("the grass", (0, 60, 100, 100), Truth.UNKNOWN),  # nobody said what it stands on
        ("a tree", (0, 0, 30, 40), Truth.UNKNOWN),
        ("", DOG, Truth.WRONG),
    ],
)
def test_by_what_people_annotated(text: str, box: Box, truth: Truth) -> None:
    known = picture(region(DOG, "a dog", "the brown dog"), region(MAN, "a man in a hat"))
    assert known.of(text, np.array(box, float)) is truth


@pytest.mark.parametrize(
    ("text", "box", "truth"),
    [
        ("a boy", MAN, Truth.RIGHT),
        ("a person", (0, 60, 60, 100), Truth.WRONG),  # where no person is
        ("a car", (0, 0, 60, 50), Truth.WRONG),  # there is none that large
        ("a car", (0, 0, 10, 10), Truth.UNKNOWN),  # it may have missed a small one
        ("a spoon", MAN, Truth.WRONG),  # a person is there
        ("a shirt", MAN, Truth.UNKNOWN),
        ("the sky", (0, 0, 60, 50), Truth.UNKNOWN),
    ],
)
def test_by_what_a_detector_found(text: str, box: Box, truth: Truth) -> None:
    seen = Detection("person", 0.8, MAN)
    known = picture(region(MAN, "a person", score=0.8), detections=[seen])
    assert known.of(text, np.array(box, float)) is truth
    # Where it did not look nothing is known.
    assert picture().of(text, np.array(box, float)) is Truth.UNKNOWN


def test_what_a_person_and_the_detector_disagree_on_is_not_known() -> None:
    known = picture(region(MAN, "a statue"), detections=[Detection("person", 0.9, MAN)])
    assert known.of("a man", np.array(MAN, float)) is Truth.UNKNOWN


def test_the_name_of_a_whole_picture_is_that_of_what_fills_it() -> None:
    known = picture(region((0, 0, 100, 100), "a beaver", loose=True))
    large, small = np.array([5, 5, 95, 90], float), np.array([5, 5, 20, 20], float)
    assert known.of("a beaver", large) is Truth.RIGHT
    assert known.of("a dog", large) is Truth.WRONG
    assert known.of("the grass", large) is known.of("a dog", small) is Truth.UNKNOWN
