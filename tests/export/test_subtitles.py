"""Subtitles: every cue can be seen, is valid, and says what was captioned."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from dataclasses import replace

import av
import pytest
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.export.cues import LEAST_MS, Cue, cues_of
from pipeline.export.srt import SubRip
from pipeline.export.vtt import WebVtt
from pipeline.query.rows import CaptionRow
from tests.duration import by_day

S = 10**9


def row(track: int, start_s: float, end_s: float, text: str) -> CaptionRow:
    ns = (round(start_s * S), round(end_s * S))
    return CaptionRow("cam", track, *ns, start_s, end_s, text, 0.5, (0, 0, 1, 1))


def written(form: SubRip | WebVtt, rows: list[CaptionRow]) -> str:
    out = io.BytesIO()
    form.write(iter(rows), out)
    return out.getvalue().decode()


def test_what_was_seen_once_is_shown_for_a_moment() -> None:
    assert list(cues_of([row(1, 0, 0, "a dog"), row(2, 2.5, 2.5, "a cat")])) == [
        Cue(0, LEAST_MS, "[1] a dog"),
        Cue(2500, 2500 + LEAST_MS, "[2] a cat"),
    ]


def test_a_short_cue_ends_where_its_track_is_called_otherwise() -> None:
    rows = [row(1, 0, 0.4, "a dog"), row(2, 0.1, 0.1, "a man"), row(1, 0.4, 5, "a brown horse")]
    assert [(cue.start_ms, cue.end_ms) for cue in cues_of(rows)] == [(0, 400), (100, 800), (400, 5000)]


def test_the_first_second_has_cues_also_where_a_clock_began_late() -> None:
    (cue,) = cues_of([row(1, -3, -2, "a dog")])
    assert (cue.start_ms, cue.end_ms) == (0, LEAST_MS)


ODD = [
    "<i>a dog</i>",
    "a {\\an8}dog",
    "a --> b",
    "x\n\ny",
    "a & b &lt;",
    "\x00\u2028a\x1bdog",
    "<",
    "a < b > c",
    "-->",
]


@pytest.mark.parametrize("text", ODD)
def test_a_player_shows_what_was_said_and_obeys_none_of_it(text: str, tmp_path) -> None:
    plain = " ".join(re.sub(r"[\x00-\x20\u2028]", " ", text).split())
    look_alikes = str.maketrans("<>{}", "\u2039\u203a()")
    for form, name, same in ((SubRip(), "a.srt", plain.translate(look_alikes)), (WebVtt(), "a.vtt", plain)):
        (tmp_path / name).write_text(written(form, [row(1, 1, 2, text), row(2, 3, 4, "next")]))
        shown = []
        with av.open(str(tmp_path / name)) as container:
            for packet in container.demux(container.streams.subtitles[0]):
                for subtitle in packet.decode():
                    shown.append(bytes(subtitle.ass).decode().split(",", 8)[-1])
        assert len(shown) == 2
        # FFmpeg hands it on as ASS, where a brace is escaped; a command would not be.
        literal = shown[0].replace("\\{", "{").replace("{{}", "{").replace("\u2060", "")
        assert literal == f"[1] {same}"


moments = st.floats(-10, 400_000, allow_nan=False)
some_rows = st.lists(
    st.builds(
        lambda track, start, length, text: row(track, start, start + length, text),
        st.integers(1, 4),
        moments,
        st.floats(0, 5),
        st.sampled_from([*ODD, "a dog", "a cat", ""]),
    ),
    max_size=20,
).map(lambda rows: sorted(rows, key=lambda row: (row.start_ns, row.track)))


def milliseconds(text: str) -> int:
    hours, minutes, rest = re.split(r":", text)
    return (int(hours) * 60 + int(minutes)) * 60_000 + int(rest.replace(",", "").replace(".", ""))


@given(some_rows)
def test_every_cue_is_valid_and_none_is_lost(rows: list[CaptionRow]) -> None:
    cues = list(cues_of(rows))
    for form, point in ((SubRip(None), ","), (WebVtt(None), r"\.")):
        blocks = written(form, rows).removeprefix("WEBVTT\n\n").split("\n\n")[:-1]
        assert len(blocks) == len(cues)
        starts = []
        for block in blocks:
            lines = block.split("\n")
            times, text = lines[-2:]
            assert len(lines) == (3 if point == "," else 2)
            match = re.fullmatch(rf"(\d\d+:\d\d:\d\d{point}\d\d\d) --> (\d\d+:\d\d:\d\d{point}\d\d\d)", times)
            assert match is not None
            start, end = map(milliseconds, match.groups())
            assert end > start >= 0
            assert "-->" not in text
            assert "<" not in text
            starts.append(start)
        assert starts == sorted(starts)


def test_three_at_once_are_the_surest_and_another_waits_or_is_counted() -> None:
    rows = [
        replace(row(n, n / 10, 6, f"thing {n}"), score=score) for n, score in enumerate((0.5, 0.4, 0.6, 0.3))
    ]
    rows += [replace(row(4, 1.5, 3, "sure"), score=0.9), replace(row(5, 1.6, 1.7, "short"), score=0.1)]
    cues = cues_of(rows, 3)
    assert [(c.start_ms, c.end_ms, c.text) for c in cues] == [
        (0, 6000, "[0] thing 0"),
        (100, 1500, "[1] thing 1"),
        (200, 6000, "[2] thing 2"),
        (1500, 3000, "[4] sure"),
        (3000, 6000, "[1] thing 1"),
    ]
    assert cues.left_out == 2


scored_rows = some_rows.flatmap(
    lambda rows: st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)).map(
        lambda scores: [replace(row, score=score) for row, score in zip(rows, scores, strict=True)]
    )
)


@given(scored_rows, st.integers(1, 3))
@settings(max_examples=by_day(30, otherwise=1000))
def test_never_more_at_once_each_long_enough_and_what_is_missing_is_counted(
    rows: list[CaptionRow], most: int
) -> None:
    everything, cues = list(cues_of(rows)), cues_of(rows, most)
    shown = list(cues)
    assert [c.start_ms for c in shown] == sorted(c.start_ms for c in shown)
    for cue in shown:
        assert sum(other.start_ms <= cue.start_ms < other.end_ms for other in shown) <= most
        assert any(
            one.text == cue.text and one.start_ms <= cue.start_ms < cue.end_ms <= one.end_ms
            and (cue.end_ms - cue.start_ms >= LEAST_MS or (cue.start_ms, cue.end_ms) == (one.start_ms, one.end_ms))
            for one in everything
        )  # fmt: skip
    whole = [one for one in everything if not any(
        one.text == cue.text and one.start_ms <= cue.start_ms < one.end_ms for cue in shown
    )]  # fmt: skip
    assert cues.left_out >= len(whole)
    assert len(shown) >= min(len(everything), 1)


def test_other_programs_read_the_same_cues() -> None:
    rows = [row(1, 0, 2, "a dog"), row(2, 1, 3661.5, "a man & <woman>"), row(1, 4, 5, "a cat")]
    cues = list(cues_of(rows, 3))
    read = list(srt.parse(written(SubRip(), rows)))
    assert [(round(c.start.total_seconds() * 1000), round(c.end.total_seconds() * 1000)) for c in read] == [
        (c.start_ms, c.end_ms) for c in cues
    ]
    again = webvtt.from_string(written(WebVtt(), rows))
    assert [round(c.start_in_seconds * 1000) for c in again] == [c.start_ms // 1000 * 1000 for c in cues]
    assert [html.unescape(c.raw_text) for c in again] == [c.text for c in cues]


def test_an_hour_of_one_thing_is_told_as_it_goes_and_not_held() -> None:
    taken = 0

    def endless() -> Iterator[CaptionRow]:
        nonlocal taken
        for n in range(100_000):
            taken += 1
            yield row(1, n, n + 1, "a parked car")

    first = next(iter(cues_of(endless(), 3)))
    assert first.end_ms - first.start_ms >= 600_000
    assert taken < 3000
