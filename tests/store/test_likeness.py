"""Searching by likeness and by words: what is done on bits and on one long string gives what is done by the book."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.columns import TextColumns
from pipeline.store.likeness import cosines, lengths
from pipeline.store.text_filter import SearchedTexts, TextFilter, folded
from tests.duration import by_day

numbers = st.one_of(
    st.floats(-60000, 60000, width=16), st.sampled_from([0.0, 2.0**-24, -(2.0**-24), 65504.0])
)


@settings(max_examples=by_day(60, otherwise=2000), deadline=None)
@given(
    rows=st.lists(st.lists(numbers, min_size=5, max_size=5), min_size=1, max_size=8),
    like=st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5),
)
def test_cosines_are_those_of_the_numbers(rows: list[list[float]], like: list[float]) -> None:
    embeddings, asked = np.array(rows, "<f2"), np.array(like, np.float32)
    found = cosines(embeddings, lengths(embeddings, 5), asked)
    exact, one = embeddings.astype(np.float64), asked.astype(np.float64)
    known = np.linalg.norm(exact, axis=1)
    if not np.linalg.norm(asked) > 0:
        assert np.isnan(found).all()
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = exact @ one / known / np.linalg.norm(one)
    assert np.array_equal(np.isnan(found), known == 0)
    assert found[known > 0] == pytest.approx(wanted[known > 0], abs=1e-5)


def test_embeddings_of_another_length_are_like_nothing() -> None:
    rows = np.full((4, 6), np.nan, "<f2")
    rows[1, :4], rows[2, :6], rows[3, :4] = 0.5, 0.5, (0.5, np.inf, 0, 0)
    found = cosines(rows, lengths(rows, 4), np.ones(4, np.float32))
    assert np.isnan(found).tolist() == [True, False, True, True]
    assert found[1] == pytest.approx(1)
    assert np.isnan(cosines(rows, lengths(rows, 9), np.ones(9, np.float32))).all()


words = st.text(st.sampled_from(["a", "B", "é", "e", "\u0301", "ß", "\n", " ", "-", "字"]), max_size=6)


@settings(max_examples=by_day(60, otherwise=2000), deadline=None)
@given(texts=st.lists(words, max_size=6, unique=True), part=words)
def test_texts_are_found_as_each_by_itself(texts: list[str], part: str) -> None:
    columns = TextColumns.of(texts)
    searched = SearchedTexts(columns.off, columns.bytes)
    assert searched.strings(np.arange(len(texts))) == texts
    if part:
        sought = folded(part).replace("\n", " ")
        wanted = [sought in folded(text.replace("\n", " ")) for text in texts]
        assert TextFilter(contains=part).matching(searched).tolist() == wanted


def test_ends_that_are_none_are_refused() -> None:
    for ends in ([3, 1], [9]):
        with pytest.raises(ValueError, match="do not end where it tells"):
            SearchedTexts(np.array(ends, "<u4"), np.frombuffer(b"abcd", np.uint8))
