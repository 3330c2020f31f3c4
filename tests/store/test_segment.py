"""The file format of a segment, read by us and by others."""

import contextlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store.columns import TABLES
from pipeline.store.place import LocalPlace
from pipeline.store.segment import SCHEMA, SegmentAttributes, SegmentReader, encode_segment
from pipeline.store.segment_rows import SegmentRows, newest_versions, take_ragged
from pipeline.store.stored_zip import stored_entry, stored_zip
from pipeline.store.zarr_zip import encode
from tests.store_samples import T0, S, batch, newest_events

COUNT = 12


def rows_of(numbers: range) -> SegmentRows:
    return SegmentRows.join([SegmentRows.of(batch(n)) for n in numbers])


def attributes(count: int) -> SegmentAttributes:
    return SegmentAttributes("cam", 0, count, 0, 1, T0, T0 + count * S, 0, batch(count - 1).resume, "demo")


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    path = tmp_path / "segment.zarr.zip"
    path.write_bytes(encode_segment(rows_of(range(COUNT)), attributes(COUNT)))
    return path


def assert_same(left: SegmentRows, right: SegmentRows) -> None:
    assert left.text.strings() == right.text.strings()
    for group in ("obs", "cap", "trk", "gap"):
        for name, array in left.table(group).arrays().items():
            np.testing.assert_array_equal(array, getattr(right.table(group), name), err_msg=f"{group}/{name}")


def test_rows_read_back(segment: Path) -> None:
    assert_same(SegmentReader(LocalPlace(segment.parent), segment.name).rows(), rows_of(range(COUNT)))


def test_zarr_python_reads_every_array_that_we_wrote(segment: Path) -> None:
    rows = rows_of(range(COUNT))
    for consolidated in (True, False):
        store = zarr.storage.ZipStore(segment, mode="r")
        group = zarr.open_group(store, mode="r", use_consolidated=consolidated)
        assert group.attrs["schema"] == SCHEMA
        assert ResumePoint(**group.attrs["resume"]) == batch(COUNT - 1).resume
        assert sorted(group.group_keys()) == ["cap", "gap", "obs", "text", "trk"]
        for name in ("obs", "cap", "text", "trk", "gap"):
            for column, array in rows.table(name).arrays().items():
                np.testing.assert_array_equal(group[f"{name}/{column}"][...], array)


def test_xarray_decodes_times(segment: Path) -> None:
    store = zarr.storage.ZipStore(segment, mode="r")
    events = xarray.open_zarr(store, group="cap", consolidated=False)
    wanted = newest_events([batch(n) for n in range(COUNT)])
    assert events.t_start.values.astype("datetime64[ns]").astype(np.int64).tolist() == [
        e.start_ns for e in wanted
    ]
    assert events.box.shape == (len(wanted), 4)
    assert events.t_start.dims == events.track.dims == ("cap_row",)


def test_long_columns_are_chunked_and_read_in_part(tmp_path: Path) -> None:
    events = tuple(
        CaptionEvent(n, T0 + n, T0 + n, n, n, n, (0, 0, 1, 1), f"text {n}", 0.5, -1) for n in range(10_000)
    )
    path = tmp_path / "long.zarr.zip"
    path.write_bytes(encode_segment(SegmentRows.of(Batch(captions=events)), attributes(1)))
    assert zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")["cap/frame"].chunks == (4096,)
    kind = type(SegmentRows().cap)
    wanted = np.array([0, 4095, 4096, 9999])
    assert (
        SegmentReader(LocalPlace(path.parent), path.name).column(kind, "frame", wanted).tolist()
        == wanted.tolist()
    )
    assert SegmentReader(LocalPlace(path.parent), path.name).column(kind, "frame").tolist() == list(
        range(10_000)
    )
    np.testing.assert_array_equal(
        zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r")["cap/frame"][...], np.arange(10_000)
    )


def test_a_segment_without_rows_holds_the_resume_point(tmp_path: Path) -> None:
    path = tmp_path / "empty.zarr.zip"
    path.write_bytes(encode_segment(SegmentRows(), attributes(1)))
    assert len(SegmentReader(LocalPlace(path.parent), path.name).rows().cap) == 0
    assert zarr.open_group(zarr.storage.ZipStore(path, mode="r"), mode="r").attrs["resume"]["frame"] == 0


def test_a_flipped_bit_is_found_or_harmless_and_never_silent(segment: Path, tmp_path: Path) -> None:
    whole, good = segment.read_bytes(), rows_of(range(COUNT))
    damaged, found = tmp_path / "damaged.zarr.zip", 0
    positions = np.random.default_rng(0).integers(0, len(whole), 150)
    for position in positions:
        data = bytearray(whole)
        data[position] ^= 0x10
        damaged.write_bytes(data)
        try:
            rows = SegmentReader(LocalPlace(damaged.parent), damaged.name).rows()
        except ValueError as error:
            found += f"{damaged} is damaged" in str(error)
        else:  # a bit that nobody reads, such as a date in the zip
            assert_same(rows, good)
    assert found > 50


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_segment_is_refused(segment: Path, share: float) -> None:
    data = segment.read_bytes()
    segment.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"segment\.zarr\.zip is damaged .* restore it from a copy"):
        SegmentReader(LocalPlace(segment.parent), segment.name).rows()


def test_a_segment_of_another_schema_is_refused(segment: Path) -> None:
    with zipfile.ZipFile(segment) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(segment, "w") as new:
        for name, content in entries.items():
            new.writestr(name, content.replace(SCHEMA.encode(), b"region-captions/9"))
    with pytest.raises(ValueError, match="region-captions/9"):
        SegmentReader(LocalPlace(segment.parent), segment.name)


def test_joining_leaves_out_superseded_versions_of_an_event() -> None:
    joined = rows_of(range(10))
    keys = list(zip(joined.cap.track.tolist(), joined.cap.t_start.tolist(), strict=True))
    assert len(set(keys)) == len(keys)
    growing = joined.cap.track == 1
    assert (joined.cap.t_end[growing] - joined.cap.t_start[growing]).tolist() == [5 * S, 5 * S]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_joining_gives_the_same_rows_in_whatever_steps(sizes: list[int]) -> None:
    steps, first = [], 0
    for size in sizes:
        steps.append(rows_of(range(first, first + size)))
        first += size
    at_once, in_steps = rows_of(range(first)), SegmentRows.join(steps)
    assert_same(SegmentRows.join([in_steps]), in_steps)
    for group in ("obs", "cap", "trk", "gap"):
        for name, array in at_once.table(group).arrays().items():
            if name not in ("text", "reason"):
                np.testing.assert_array_equal(getattr(in_steps.table(group), name), array)
    texts = [np.array(rows.text.strings())[rows.cap.text].tolist() for rows in (at_once, in_steps)]
    assert texts[0] == texts[1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=30))
def test_newest_versions_keeps_the_latest_of_each_key(rows: list[tuple[int, int, int]]) -> None:
    best: dict[tuple[int, int], int] = {}
    for place, (track, start, end) in enumerate(rows):
        if (track, start) not in best or end >= rows[best[track, start]][2]:
            best[track, start] = place
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    assert newest_versions(*columns).tolist() == sorted(best.values())


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=8), st.data())
def test_take_ragged_picks_whole_rows(values: list[bytes], data: st.DataObject) -> None:
    count = len(values)
    picks = data.draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
    ends = np.cumsum([len(v) for v in values], dtype="<u4")
    taken_ends, taken = take_ragged(ends, np.frombuffer(b"".join(values), "|u1"), np.array(picks, np.int64))
    assert taken.tobytes() == b"".join(values[p] for p in picks)
    assert taken_ends.tolist() == np.cumsum([len(values[p]) for p in picks]).tolist()


def test_embeddings_of_two_models_are_joined() -> None:
    def event(track: int, embedding: np.ndarray) -> Batch:
        return Batch(captions=(CaptionEvent(track, T0, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0, embedding),))

    joined = SegmentRows.join([SegmentRows.of(event(n, np.full(n, 0.5, np.float32))) for n in range(3)])
    assert joined.cap.emb.shape == (3, 2)
    np.testing.assert_array_equal(np.isnan(joined.cap.emb), [[True, True], [False, True], [False, False]])


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (CaptionEvent(1, T0 + 1, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0), "end not before the start"),
        (CaptionEvent(1, -1, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0), "times must be 0 or later"),
        (CaptionEvent(-1, T0, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0), "track ids"),
        (CaptionEvent(2**32, T0, T0, 0, 0, 0, (0, 0, 1, 1), "x", 1, 0), "track ids"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused(event: CaptionEvent, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentRows.of(Batch(captions=(event,)))


@pytest.mark.promise("segment-masks")
@pytest.mark.parametrize("shift", [1, -1, 2**31])
def test_a_segment_whose_masks_end_elsewhere_is_damaged_and_never_merged(segment: Path, shift: int) -> None:
    good = rows_of(range(COUNT))
    wrong = good.obs.mask_off.copy()
    wrong[-1] = int(wrong[-1]) + shift
    reader = SegmentReader(LocalPlace(segment.parent), segment.name)
    tables = [replace(good.obs, mask_off=wrong) if t.group == "obs" else good.table(t.group) for t in TABLES]
    segment.write_bytes(encode(tables, reader.attrs))
    reader.close()
    with pytest.raises(ValueError, match=r"is damaged \(the masks of obs do not end where it tells\)"):
        SegmentReader(LocalPlace(segment.parent), segment.name).rows()


def test_a_stored_zip_is_what_zipfile_would_write_and_an_entry_of_it_is_held_against_its_checksum() -> None:
    entries = [("zarr.json", b"{}"), ("cap/t/c/0", bytes(range(256)) * 9), ("cap/mask_bytes/c/0", b"")]
    data = stored_zip(entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    assert data == buffer.getvalue()
    infos = zipfile.ZipFile(buffer).infolist()
    assert [stored_entry(data, info) for info in infos] == [content for _, content in entries]
    for at in range(infos[1].header_offset, infos[2].header_offset):
        spoiled = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with contextlib.suppress(zipfile.BadZipFile):
            assert stored_entry(spoiled, infos[1]) == entries[1][1]
