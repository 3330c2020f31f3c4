"""Names of streams: readable, valid everywhere, unique, and the same whenever they are made."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.stream_names import MAX_BYTES, Nameable, alike, is_stream_name, readable_name, unique_names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("my clip (1)", "my-clip-1"),
        ("10:30:00 yard", "10-30-00-yard"),
        ("двор", "двор"),
        ("车库", "车库"),
        ("한국 영상", "한국-영상"),
        ("cafe\u0301", "café"),
        ("100% #1", "100-1"),
        ("-rf", "rf"),
        ("_take_2", "_take_2"),
        ("..", ""),
        ("a/b\\c\n\u202ed", "a-b-c-d"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("20240501", "20240501"),
    ],
)
def test_a_name_is_as_like_the_text_as_can_be(text: str, name: str) -> None:
    assert readable_name(text) == name
    assert name == "" or is_stream_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a/b",
        "a\\b",
        "a b",
        "a\nb",
        "a:b",
        "cafe\u0301",
        "a\u202eb",
        "a\ufeffb",
        "é" * 51,
    ],
)
def test_what_cannot_name_a_directory_everywhere_is_refused(name: str) -> None:
    assert not is_stream_name(name)


def test_long_names_with_one_beginning_stay_apart() -> None:
    long = "карета " * 40
    one, other = readable_name(long + "1"), readable_name(long + "2")
    assert one != other
    assert one.startswith("карета-карета")
    assert max(len(one.encode()), len(other.encode())) <= MAX_BYTES


def test_the_first_thing_that_tells_two_apart_goes_into_both_names() -> None:
    def of(folder: str, ending: str) -> Nameable:
        return Nameable("clip", (ending[1:], folder, f"{folder}-{ending[1:]}"), f"/{folder}/clip{ending}")

    assert unique_names([of("a", ".mp4"), of("a", ".mkv")]) == ["clip-mp4", "clip-mkv"]
    assert unique_names([of("a", ".mp4"), of("b", ".mp4")]) == ["clip-a", "clip-b"]
    assert unique_names([of("a", ".mp4"), of("a", ".mkv"), of("b", ".mkv")]) == [
        "clip-a-mp4",
        "clip-a-mkv",
        "clip-b-mkv",
    ]
    with pytest.raises(UserError, match="two inputs would both be stream 'clip'"):
        unique_names([of("a", ".mp4"), of("a", ".mp4")])


def test_a_name_that_the_user_chose_is_kept() -> None:
    chosen, found = Nameable("yard", (), "x", given=True), Nameable("Yard", ("mp4",), "y")
    assert unique_names([found, chosen]) == ["Yard-mp4", "yard"]
    with pytest.raises(UserError, match="two inputs would both be stream 'yard'"):
        unique_names([chosen, chosen])


anything = st.text(st.characters(exclude_categories=()), max_size=300)


@given(anything)
def test_every_name_is_valid_and_comes_back_unchanged(text: str) -> None:
    name = readable_name(text)
    assert name == "" or is_stream_name(name)
    assert readable_name(name) == name


@given(st.lists(st.text("aAbé\u0301ß-. [1]", max_size=6), min_size=1, max_size=8, unique=True), st.randoms())
def test_names_are_unique_valid_and_do_not_depend_on_the_order(
    stems: list[str], shuffled: random.Random
) -> None:
    things = [Nameable(readable_name(s) or "stream", ("mp4", "x"), f"/x/{s}.mp4") for s in stems]
    names = unique_names(things)
    assert all(map(is_stream_name, names))
    assert not any(alike(a, b) for i, a in enumerate(names) for b in names[:i])
    order = list(range(len(things)))
    shuffled.shuffle(order)
    assert unique_names([things[i] for i in order]) == [names[i] for i in order]
