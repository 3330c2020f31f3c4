"""Colours that pixels do not bear out are not said, and nothing else of a caption changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.attributes import names_nothing, without_false_colours, without_guessed_people

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


@pytest.mark.parametrize(
    ("said", "guessed", "told"),
    [
        ("a man", {"man"}, "a person"),
        ("a man", set(), "a man"),
        ("a young girl in a red dress", {"girl"}, "a person in a red dress"),
        ("a young girl", {"young"}, "a young girl"),
        ("an old man", {"man"}, "a person"),
        ("two men", {"men"}, "two people"),
        ("a man and a woman", {"woman"}, "a man and a person"),
        ("a dog", {"dog"}, "a dog"),
        ("women", {"women"}, "people"),
    ],
)
def test_who_a_person_is_is_said_where_the_model_is_sure_of_it(
    said: str, guessed: set[str], told: str
) -> None:
    likely = [-1.5 if word in guessed else -0.1 for word in said.split()]
    assert without_guessed_people(said, likely) == told
    assert without_guessed_people(said, ()) == said  # nobody has looked how sure it is


@given(
    st.lists(st.sampled_from(["a", "two", "young", "man", "women", "dog", "and", "red", "old"]), max_size=8)
)
def test_a_sure_model_is_taken_at_its_word_and_a_guessing_one_tells_no_sex(words: list[str]) -> None:
    text = " ".join(words)
    assert without_guessed_people(text, [0.0] * len(words)) == text
    guessed = without_guessed_people(text, [-9.0] * len(words)).split()
    assert not {"man", "women"} & set(guessed)
    assert sum(word in ("person", "people") for word in guessed) == sum(w in ("man", "women") for w in words)
    assert guessed.count("dog") == words.count("dog")


@pytest.mark.parametrize("text", ["red", "red and black", "light blue", "white, black"])
def test_a_colour_alone_names_nothing(text: str) -> None:
    assert names_nothing(text)


@pytest.mark.parametrize("text", ["an orange", "a white", "a red shirt", "grass", ""])
def test_whatever_has_a_noun_names_something(text: str) -> None:
    assert not names_nothing(text)
