"""Colours that pixels do not bear out are not said, and nothing else of a caption changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.attributes import without_false_colours

COLOURS = ["black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]


@pytest.mark.parametrize(
    ("said", "seen", "told"),
    [
        ("a white dog", {"white"}, "a white dog"),
        ("a white dog", {"brown"}, "a dog"),
        ("a red and white car", {"white"}, "a white car"),
        ("a red and white car", {"red"}, "a red car"),
        ("a red and white car", {"blue"}, "a car"),
        ("a blue, white and red flag", {"red"}, "a red flag"),
        ("a man in a red shirt", {"blue"}, "a man in a shirt"),
        ("a grey cat", {"gray"}, "a grey cat"),
        ("an orange car", {"white"}, "a car"),
        ("a red umbrella", {"black"}, "an umbrella"),
        ("a red uniform", {"black"}, "a uniform"),
        ("a light blue shirt", {"white"}, "a shirt"),
        ("a dark green and white shirt", {"white"}, "a white shirt"),
        ("a dark shirt", set(), "a dark shirt"),
        ("a dog and red balls", {"white"}, "a dog and balls"),
        ("a white and red flag", {"white"}, "a white flag"),
        ("brown", set(), "brown"),
        ("the red", set(), "the red"),
    ],
)
def test_only_colours_that_are_seen_are_said(said: str, seen: set[str], told: str) -> None:
    assert without_false_colours(said, seen) == told


words = st.lists(
    st.sampled_from([*COLOURS, "a", "and", "with", "dog", "shirt", "grass", "two"]), min_size=1, max_size=9
)


@given(words, st.sets(st.sampled_from(COLOURS)))
def test_what_is_seen_and_every_other_word_stays(said: list[str], seen: set[str]) -> None:
    told = without_false_colours(" ".join(said), seen).split()
    kept = [word for word in said[:-1] if word in seen or word not in [*COLOURS, "a", "and"]]
    assert [word for word in told[:-1] if word not in ("a", "an", "and")] == kept
    assert told[-1] == said[-1]
    assert without_false_colours(" ".join(said), COLOURS) == " ".join(said)
