"""Answers of the store against a search through all rows by hand."""

import shutil
import tempfile
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pipeline.core.clock import TimeSpan, share_watched
from pipeline.core.masks import RleMask
from pipeline.core.records import Batch, CaptionEvent, ClosedTrack, Gap, Observation, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo, open_segments
from pipeline.store.counting import CountedBy
from pipeline.store.row_filter import RowFilter
from pipeline.store.text_filter import TextFilter
from tests.store_samples import (
    BY_HAND,
    EVERYTHING,
    INFO,
    T0,
    S,
    batch,
    embeddings,
    filled_store,
    newest_events,
    stored_events,
)

DAY = 86_400 * S
TEXTS = ("a red car", "a RED, bus", "ein Hund la\u0308uft", "hotdog", "a dog", "")


@dataclass(frozen=True)
class History:
    """Batches of a stream, and after which of them segments are merged or archived."""

    batches: tuple[Batch, ...]
    merged_after: frozenset[int]
    archived_after: int | None


times = st.integers(0, 60)


@st.composite
def events(draw: st.DrawFn) -> CaptionEvent:
    start, length = draw(times), draw(st.integers(0, 20))
    x, y = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    return CaptionEvent(
        draw(st.integers(0, 3)), T0 + start, T0 + start + length, start, start + length, draw(st.integers(0, 9)),
        (x, y, x + draw(st.integers(1, 4)), y + draw(st.integers(1, 4))), draw(st.sampled_from(TEXTS)),
        draw(st.sampled_from([0.0, 0.25, 0.5, 1.0])), -0.5, np.array(draw(st.sampled_from([(), (0.5, 0.25)])), np.float32),
        draw(st.sampled_from([None, RleMask((8, 8), b"abc"), RleMask((4, 4), b"z")])),
    )  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    seen = draw(st.lists(st.tuples(times, st.integers(0, 3)), max_size=3))
    return Batch(
        observations=tuple(Observation(T0 + t, t, t, k, (t, t, t + 1, t + 1), 0.5) for t, k in seen),
        captions=tuple(draw(st.lists(events(), max_size=5))),
        resume=ResumePoint(draw(times), 0, 0, T0, 0),
    )


@st.composite
def histories(draw: st.DrawFn) -> History:
    count = draw(st.integers(1, 7))
    numbers = st.integers(0, count - 1)
    return History(
        tuple(draw(batches()) for _ in range(count)),
        draw(st.frozensets(numbers)),
        draw(st.one_of(st.none(), numbers)),
    )


filters = st.builds(
    RowFilter,
    start=st.one_of(st.none(), times.map(lambda t: T0 + t)),
    end=st.one_of(st.none(), times.map(lambda t: T0 + t)),
    track=st.one_of(st.none(), st.integers(0, 3)),
    text=st.sampled_from([None, "red", "LÄUFT", "zebra"]),
    min_score=st.sampled_from([None, 0.25, 1.0]),
    box=st.one_of(st.none(), st.just((2.0, 2.0, 5.0, 5.0))),
    texts=st.sampled_from(
        [
            TextFilter(),
            TextFilter(words=("dog",)),
            TextFilter(words=("a", "RED")),
            TextFilter(phrases=("red bus",)),
            TextFilter(without=("dog", "red car")),
            TextFilter(regex="^a (dog|red)"),
        ]
    ),
    zone=st.sampled_from(
        [None, ((0.0, 0.0), (6.0, 0.0), (0.0, 6.0)), ((1.0, 1.0), (9.0, 1.0), (9.0, 9.0), (1.0, 9.0))]
    ),
    like=st.sampled_from([None, (1.0, 0.0), (0.0, 1.0)]),
    min_similarity=st.just(0.5),
)


def texts_match(text: str, wanted: TextFilter) -> bool:
    """Word by word, for texts that have none but letters, spaces and commas."""
    words = unicodedata.normalize("NFC", text).casefold().replace(",", " ").split()
    pairs = [" ".join(pair) for pair in pairwise(words)]
    return (
        all(word.casefold() in words for word in wanted.words)
        and all(phrase in pairs for phrase in wanted.phrases)
        and not any(word in (*words, *pairs) for word in wanted.without)
        and (wanted.regex is None or words[:2] in (["a", "dog"], ["a", "red"]))
    )


def in_zone(event: CaptionEvent, zone: tuple[tuple[float, float], ...] | None) -> bool:
    if zone is None:
        return True
    x, y = (event.box[0] + event.box[2]) / 2, (event.box[1] + event.box[3]) / 2
    if len(zone) == 3:
        return x >= 0 and y >= 0 and x + y < 6
    return 1 <= x < 9 and 1 <= y < 9


def matches(event: CaptionEvent, wanted: RowFilter) -> bool:
    x0, y0, x1, y1 = wanted.box or (-np.inf, -np.inf, np.inf, np.inf)
    return (
        (wanted.end is None or event.start_ns <= wanted.end)
        and (wanted.start is None or event.end_ns >= wanted.start)
        and wanted.track in (None, event.track)
        and (wanted.text or "").lower() in unicodedata.normalize("NFC", event.text).lower()
        and texts_match(event.text, wanted.texts)
        and in_zone(event, wanted.zone)
        and (wanted.like is None or (len(event.embedding) == 2 and bool(wanted.like[0])))
        and event.score >= (wanted.min_score or 0)
        and event.box[0] < x1 and event.box[2] > x0 and event.box[1] < y1 and event.box[3] > y0
    )  # fmt: skip


def write(path: Path, history: History) -> CaptionStore:
    store = CaptionStore.create(path)
    with store.writer("cam", INFO, compaction=Compaction(fan_in=2, grace_s=0.0, enabled=False)) as writer:
        for number, one in enumerate(history.batches):
            writer.commit(one)
            if number in history.merged_after:
                writer.compact()
            if number == history.archived_after:
                writer.archive_closed_days(T0 + DAY)
    return store


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.lists(filters, min_size=1, max_size=3))
def test_answers_are_those_of_a_search_by_hand(history: History, wanted: list[RowFilter]) -> None:
    path = Path(tempfile.mkdtemp()) / "a.zarr"
    try:
        store = write(path, history)
        newest = newest_events(history.batches)
        for one in wanted:
            if one.start is not None and one.end is not None and one.start > one.end:
                one = replace(one, start=one.end, end=one.start)
            table = store.captions(
                one.start, one.end, track=one.track, text=one.text, min_score=one.min_score, box=one.box,
                columns=EVERYTHING,
            )  # fmt: skip
            told = list(store.matching("cam", one, masks=True, embeddings=True))
            expected = [e for e in newest if matches(e, one)]
            assert [event for event, _ in told] == expected
            assert embeddings([event for event, _ in told]) == embeddings(expected)
            backwards = [event for event, _ in store.matching("cam", one, masks=True, newest=True)]
            assert backwards == sorted(expected, key=lambda e: (-e.start_ns, e.track))
            assert [e for e, _ in islice(store.matching("cam", one, masks=True), 2)] == expected[:2]
            counts = store.count("cam", one, CountedBy.TEXT)
            assert {text: count.events for text, count in counts.items()} == Counter(e.text for e in expected)
            assert {t: c.tracks for t, c in counts.items()} == {
                t: len({e.track for e in expected if e.text == t}) for t in counts
            }
            plain = RowFilter(one.start, one.end, one.track, one.text, one.min_score, one.box)
            expected = [e for e in newest if matches(e, plain)]
            assert stored_events(table) == expected
            assert embeddings(stored_events(table)) == embeddings(expected)
            seen = store.observations(one.start, one.end, track=one.track)
            by_hand = [
                (o.wall_ns, o.track)
                for b in history.batches
                for o in b.observations
                if (one.start or 0) <= o.wall_ns <= (one.end or 2**63) and one.track in (None, o.track)
            ]
            found = zip(seen["t"].cast(pa.int64()).to_pylist(), seen["track"].to_pylist(), strict=True)
            assert list(found) == sorted(by_hand)
    finally:
        shutil.rmtree(path.parent)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CaptionStore:
    return filled_store(tmp_path_factory.mktemp("query") / "a.zarr", 20)


def test_columns_and_their_types(store: CaptionStore) -> None:
    schema = store.captions(limit=1).schema
    assert schema.names == [
        "stream", "track", "t_start", "t_end", "start_s", "end_s", "text", "score", "logprob",
        "x0", "y0", "x1", "y1", "frame", "shot",
    ]  # fmt: skip
    assert schema.field("t_start").type == schema.field("t_end").type == pa.timestamp("ns", tz="UTC")
    assert schema.field("text").type == pa.dictionary(pa.int32(), pa.string())
    assert {schema.field(name).type for name in ("score", "logprob", "x0", "y0", "x1", "y1")} == {
        pa.float32()
    }
    assert {schema.field(name).type for name in ("start_s", "end_s")} == {pa.float64()}


def test_no_row_found_keeps_columns_and_types(store: CaptionStore) -> None:
    nothing = store.captions(text="no such thing", columns=EVERYTHING)
    assert len(nothing) == 0
    assert nothing.schema == store.captions(columns=EVERYTHING).schema
    assert (
        len(store.captions(T0 + DAY)) == len(store.observations(T0 + DAY)) == len(store.tracks(T0 + DAY)) == 0
    )


def test_the_answer_as_pandas(store: CaptionStore) -> None:
    frame = store.captions(text="schöne KATZE").to_pandas()
    assert len(frame) == 20
    assert frame.t_start[0].isoformat() == "2026-09-21T14:13:20.500000+00:00"
    assert (frame.end_s - frame.start_s == 1).all()


def test_times_may_be_given_in_several_ways(store: CaptionStore) -> None:
    start, end = T0 + 3 * S, T0 + 4 * S
    expected = store.captions(start, end)
    moments = [datetime.fromtimestamp(t // S, UTC) for t in (start, end)]
    assert store.captions(*moments) == expected
    assert store.captions(*(m.astimezone() for m in moments)) == expected
    assert store.captions(np.datetime64(start, "ns"), np.datetime64(end, "ns")) == expected
    with pytest.raises(ValueError, match="has no time zone"):
        store.captions(datetime(2026, 1, 1))


@pytest.mark.parametrize("method", ["captions", "observations", "tracks", "gaps", "coverage"])
def test_a_window_that_ends_before_it_starts_is_refused(store: CaptionStore, method: str) -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        getattr(store, method)(T0 + 1, T0)


def test_an_unknown_stream_or_column_is_refused_with_the_nearest(store: CaptionStore) -> None:
    with pytest.raises(ValueError, match=r"no stream 'can' .* did you mean 'cam'"):
        store.captions(stream="can")
    with pytest.raises(ValueError, match="no column 'caption' in captions: choose from stream, track"):
        store.captions(columns=["caption"])
    with pytest.raises(ValueError, match="limit -1"):
        store.captions(limit=-1)


def test_limit_keeps_the_earliest(store: CaptionStore) -> None:
    assert store.captions(limit=5) == store.captions().slice(0, 5)
    assert len(store.captions(limit=0)) == 0


def test_a_mask_is_what_pycocotools_reads(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[5:20, 7:40] = 1
    mask = RleMask((48, 64), coco_mask.encode(pixels)["counts"])
    event = CaptionEvent(1, T0, T0 + S, 0, S, 0, (7, 5, 40, 20), "a box", 0.5, -1, mask=mask)
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO) as writer:
        writer.commit(Batch(captions=(event,)))
    stored = store.captions(columns=["mask"])["mask"][0].as_py()
    np.testing.assert_array_equal(coco_mask.decode(stored), pixels)


def test_streams_are_asked_together_or_alone(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 4)
    with store.writer("yard", StreamInfo("y.mp4", INFO.clock, T0, 64, 48)) as writer:
        writer.commit(batch(2))
    both = store.captions()
    assert len(both) == len(store.captions(stream="cam")) + len(store.captions(stream="yard"))
    assert set(both["stream"].to_pylist()) == {"cam", "yard"}
    assert both["t_start"].to_pylist() == sorted(both["t_start"].to_pylist())


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no streams yet"):
        CaptionStore.create(tmp_path / "a.zarr").captions()


def test_a_track_closed_again_later_counts_once(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for last in (5, 9, 30):
            writer.commit(Batch(tracks=(ClosedTrack(7, T0, T0 + last * S, last, f"until {last}"),)))
    for start in (None, T0 + 3 * S, T0 + 20 * S):
        assert store.tracks(start)["text"].to_pylist() == ["until 30"]


def test_coverage_counts_gaps_and_what_lies_outside_the_recording(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO) as writer:
        writer.commit(
            Batch(
                gaps=(Gap(T0 + 20 * S, T0 + 60 * S, "outage"),), resume=ResumePoint(0, 0, 0, T0 + 100 * S, 1)
            )
        )
    assert store.span("cam") == TimeSpan(T0, T0 + 100 * S)
    assert store.coverage() == pytest.approx(0.6)
    assert store.coverage(T0, T0 + 40 * S) == pytest.approx(0.5)
    assert store.coverage(T0 + 30 * S, T0 + 50 * S) == 0
    assert store.coverage(T0 + 90 * S, T0 + 110 * S) == pytest.approx(0.5)
    assert store.coverage(T0 + 200 * S, T0 + 300 * S) == 0
    assert store.gaps()["reason"].to_pylist() == ["outage"]


spans = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: TimeSpan(min(pair), max(pair)))


@settings(deadline=None)
@given(spans.filter(lambda w: w.length > 0), spans, st.lists(spans, max_size=6))
def test_share_watched_is_that_of_counting(
    window: TimeSpan, recorded: TimeSpan, gaps: list[TimeSpan]
) -> None:
    seen = [
        recorded.start <= t
        and t + 1 <= recorded.end
        and not any(g.start <= t and t + 1 <= g.end for g in gaps)
        for t in range(window.start, window.end)
    ]
    assert share_watched(window, recorded, gaps) == pytest.approx(sum(seen) / window.length)


def test_a_store_that_is_closed_dropped_or_forgets_segments_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.zarr_zip._SMALL", 0)  # or they would be read at once
    store = filled_store(tmp_path / "a.zarr", open_segments.OPEN_SEGMENTS + 20, BY_HAND)

    def held() -> list[str]:
        return [file.path for file in psutil.Process().open_files() if file.path.startswith(str(tmp_path))]

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        assert store.captions().num_rows
        assert 0 < len(held()) <= open_segments.OPEN_SEGMENTS
        store.close()
        assert held() == []
        assert store.captions().num_rows
        del store
        assert held() == []
    assert [warning for warning in told if warning.category is ResourceWarning] == []


def test_words_of_scripts_with_vowel_signs_are_whole(tmp_path: Path) -> None:
    """Python's re ends a word at each vowel sign of Indian scripts, at combining accents and at joiners."""
    texts = ("कुत्ता घास पर", "कीतीती", "q\u0303 red", "می\u200cخواهم سگ", "a dog")
    store = CaptionStore.create(tmp_path / "a.zarr")
    one = batch(0).captions[1]
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.commit(Batch(captions=tuple(replace(one, track=n, text=t) for n, t in enumerate(texts))))

    def found(**asked: tuple[str, ...]) -> list[int]:
        return [e.track for e, _ in store.matching("cam", RowFilter(texts=TextFilter(**asked)))]

    assert found(words=("कुत्ता",)) == [0]
    assert (
        found(words=("कु",)) == found(words=("त्ता",)) == found(words=("q",)) == found(words=("خواهم",)) == []
    )
    assert found(phrases=("कुत्ता घास",)) == [0]
    assert found(words=("q\u0303",)) == [2]
    assert found(words=("dog",)) == [4]
    assert found(without=("कुत्ता", "dog", "سگ")) == [1, 2]
