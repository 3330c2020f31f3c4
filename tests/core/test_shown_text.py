"""Text of others: shown in a terminal, exact in JSON, never computed by a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.shown_text import csv_cell, json_text, shown

pytestmark = pytest.mark.promise("hostile-text", "json-csv")

# Lone halves of pairs too, which file names that are no UTF-8 come as.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    "\x1b\x9b\x07\r\n\t\u202e\u2066\u2028\udcff[];m]0=+-@' a\x7f\u200d", max_size=20
)


def acts(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and char not in "\u200c\u200d"


@given(TEXTS)
def test_nothing_that_is_shown_acts_and_the_rest_stays(text: str) -> None:
    assert not any(map(acts, shown(text)))
    assert not any(map(acts, shown(text, lines=True).replace("\n", "")))
    assert shown(shown(text)) == shown(text)
    if not any(map(acts, text)):
        assert shown(text) == text
    shown(text).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a dog\u202egod a", r"a dog\u202egod a"),
        ("two\r\nlines", r"two\r\nlines"),
        ("Zwölf Hunde 犬 👩\u200d🚀 [red]", "Zwölf Hunde 犬 👩\u200d🚀 [red]"),
        ("\udce9t\u00e9.mp4", r"\udce9té.mp4"),
    ],
)
def test_escapes_are_written_out(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.dictionaries(TEXTS, TEXTS | st.integers() | st.floats(allow_nan=False), max_size=3))
def test_json_is_exact_and_one_line_without_anything_that_acts(document: dict[str, object]) -> None:
    line = json_text(document)
    assert json.loads(line) == document
    assert not any(map(acts, line))
    line.encode()


@given(TEXTS)
def test_a_csv_cell_is_text_for_every_spreadsheet(text: str) -> None:
    cell = csv_cell(text)
    assert not any(map(acts, cell.replace("\n", "")))
    assert not cell.lstrip(" ").startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20"))
    out = io.StringIO()
    csv.writer(out).writerow([cell])
    assert next(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [cell]


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1"])
def test_formulas_get_an_apostrophe(text: str) -> None:
    assert csv_cell(text) == "'" + shown(text)


def test_plain_cells_stay() -> None:
    assert csv_cell("a dog - or a cat, 50% = half") == "a dog - or a cat, 50% = half"
    assert csv_cell("") == ""
