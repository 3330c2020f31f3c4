"""What is new in a store is told once: beside merging, archiving, retention, damage, and the deaths of writer and reader."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pipeline.core.clock import TimeSpan
from pipeline.core.errors import UserError
from pipeline.core.records import Batch, CaptionEvent, ClosedTrack, Gap, GapReason, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamWriter
from pipeline.store.feed import FORGOTTEN, CaptionFeed, NewCaption, NewGap
from pipeline.store.place import LocalPlace
from pipeline.store.row_filter import RowFilter
from pipeline.store.stream_directory import list_visible
from pipeline.store.text_filter import TextFilter
from tests.duration import by_day
from tests.store_samples import BY_HAND, INFO, MERGING, T0, S, batch, filled_store, write_forever

pytestmark = pytest.mark.promise("follow-once")

Key = tuple[str, int, int]
KILLS = by_day(1, otherwise=30)


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["__main__", "pytest", "pipeline.store", "pipeline.store.feed", "tests.store_samples"]
    )
    return context


def told_keys(feed: CaptionFeed) -> list[Key]:
    return [(i.stream, i.event.track, i.event.start_ns) for i in feed.poll() if isinstance(i, NewCaption)]


def keys_of(numbers: range, stream: str = "cam") -> list[Key]:
    events = dict.fromkeys((stream, e.track, e.start_ns) for n in numbers for e in batch(n).captions)
    return list(events)


def test_a_feed_begins_now_or_with_a_moment_and_tells_each_event_once(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 7)
    now, past = store.follow(), store.follow(0)
    assert told_keys(now) == []
    assert sorted(told_keys(past)) == sorted(keys_of(range(7)))
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number in range(7, 12):
            writer.commit(batch(number))
            # The event of track 1 that grew from 5 to 9 was known before 7.
            fresh = [k for k in keys_of(range(number, number + 1)) if k[1] != 1 or number == 10]
            assert told_keys(now) == fresh == told_keys(past)
        writer.compact()
        assert told_keys(now) == [] == told_keys(past)
        writer.archive_closed_days(T0 + 10**15)
        assert told_keys(now) == [] == told_keys(past)


def test_going_on_with_a_cursor_from_anywhere_tells_the_rest_whatever_was_merged_meanwhile(
    tmp_path: Path,
) -> None:
    store = filled_store(tmp_path / "a.zarr", 8, Compaction(fan_in=100, enabled=False))
    feed = store.follow(0)
    cursors, told = [feed.cursor], []
    for item in feed.poll():
        told.append(item)
        cursors.append(feed.cursor)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for change, every in (
            (lambda: None, 1), (writer.compact, 1), (lambda: writer.archive_closed_days(T0 + 10**15), by_day(8, otherwise=1)),
        ):  # fmt: skip
            change()
            for taken, cursor in list(enumerate(cursors))[::every]:
                rest = list(store.follow(cursor=cursor).poll())
                seen = [(i.event.track, i.event.start_ns) for i in told[:taken] if isinstance(i, NewCaption)]
                after = [(i.event.track, i.event.start_ns) for i in rest if isinstance(i, NewCaption)]
                assert not set(seen) & set(after)
                assert set(seen) | set(after) == {k[1:] for k in keys_of(range(8))}
                gaps = [i.span.start for i in (*told[:taken], *rest) if isinstance(i, NewGap)]
                assert gaps == [g.start_ns for n in range(8) for g in batch(n).gaps]


def test_an_event_is_told_when_it_first_matches(tmp_path: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    wanted = RowFilter(texts=TextFilter(words=("dog",)), min_score=0.5)
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        feed = store.follow(wanted=wanted)
        event = CaptionEvent(1, T0, T0, 0, 0, 0, (0.0, 0.0, 9.0, 9.0), "a dog", 0.25, -1.0)
        for score, found in ((0.25, 0), (0.75, 1), (0.8, 0)):
            end = event.end_ns + S
            event = replace(event, end_ns=end, score=score)
            writer.commit(Batch(captions=(event,), resume=ResumePoint(end, 1, 0, end)))
            assert len(told_keys(feed)) == found


def test_streams_that_begin_later_are_followed_from_their_beginning(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 3)
    feed, chosen = store.follow(), store.follow(stream="cam")
    with store.writer("gate", INFO, compaction=BY_HAND) as writer:
        writer.commit(batch(0))
    assert told_keys(feed) == keys_of(range(1), "gate")
    assert told_keys(chosen) == []


def test_what_was_forgotten_lost_or_damaged_before_it_was_told_is_told_as_that(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 9, Compaction(fan_in=100, enabled=False))
    feed = store.follow(0)
    first = next(iter(feed.poll()))
    assert isinstance(first, NewCaption)
    cursor = feed.cursor
    place = LocalPlace(store.path / "streams/cam")
    names = list_visible(place).segments
    damaged = store.path / "streams/cam" / names[4].path
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        writer.forget_before(T0 + 2 * S + S // 2)
    forgotten = list_visible(place).segments[0].lo
    assert forgotten > 0
    items = list(store.follow(cursor=cursor).poll())
    gaps = [(i.reason, i.span) for i in items if isinstance(i, NewGap) and i.reason != "dropped"]
    assert [reason for reason, _ in gaps] == [FORGOTTEN, GapReason.DAMAGED]
    assert gaps[1][1] == TimeSpan(names[4].t_min, names[4].t_max)
    assert [file.path for file in store.damage()] == [str(damaged)]
    told = {(i.event.track, i.event.start_ns) for i in items if isinstance(i, NewCaption)}
    expected = {k[1:] for n in range(forgotten, 9) if n != 4 for k in keys_of(range(n, n + 1))}
    assert told == expected - {(first.event.track, first.event.start_ns)}


def test_a_lost_commit_is_waited_for_and_then_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "a.zarr", 5, Compaction(fan_in=100, enabled=False))
    names = list_visible(LocalPlace(store.path / "streams/cam")).segments
    lost = store.path / "streams/cam" / names[2].path
    kept = lost.read_bytes()
    lost.unlink()
    feed = store.follow(0)
    assert told_keys(feed) == keys_of(range(2))
    lost.write_bytes(kept)
    assert told_keys(feed) == [k for k in keys_of(range(5)) if k not in keys_of(range(2))]
    lost.unlink()
    feed = store.follow(0)
    monkeypatch.setattr("pipeline.store.feed._HOLE_S", 0.0)
    assert [i.reason for i in feed.poll() if isinstance(i, NewGap)] == [GapReason.LOST]


def test_a_commit_that_was_taken_back_and_put_again_with_more_rows_is_told_whole(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 2, Compaction(fan_in=100, enabled=False))
    feed = store.follow(0)
    assert told_keys(feed) == keys_of(range(2))
    names = list_visible(LocalPlace(store.path / "streams/cam")).segments
    (store.path / "streams/cam" / names[-1].path).unlink()
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        both = replace(batch(1), captions=(*batch(1).captions, *batch(2).captions))
        writer.commit(both)
    assert told_keys(feed) == keys_of(range(2, 3))[1:]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", '{"cursor": 2, "streams": {}}', '{"cursor": 1, "streams": {"cam": {"commit": true}}}',
     '{"cursor": 1, "streams": {"cam": {"commit": 0, "until": 0, "told": [[1]], "gaps": []}}}', "[" * 100_000],
)  # fmt: skip
def test_a_cursor_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    store = filled_store(tmp_path / "a.zarr", 1)
    with pytest.raises(UserError, match="begin without it"):
        store.follow(cursor=text)


def test_a_cursor_of_another_store_is_refused(tmp_path: Path) -> None:
    feed = filled_store(tmp_path / "a.zarr", 5).follow(0)
    list(feed.poll())
    with pytest.raises(UserError, match="another store"):
        filled_store(tmp_path / "b.zarr", 2).follow(cursor=feed.cursor)


def test_a_cursor_with_another_digit_or_of_another_store_as_long_is_refused(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "a.zarr", 5)
    feed = store.follow(0)
    list(feed.poll())
    assert '"commit":4,' in feed.cursor
    with pytest.raises(UserError, match="another checksum"):
        store.follow(cursor=feed.cursor.replace('"commit":4,', '"commit":3,'))
    assert not told_keys(store.follow(cursor=json.dumps(json.loads(feed.cursor), indent=2)))
    with pytest.raises(UserError, match="another store"):
        filled_store(tmp_path / "b.zarr", 9).follow(cursor=feed.cursor)


def follow_into(path: Path, file: Path) -> None:
    """Follow until killed. What was heard and the cursor behind it are one line, as one row of a database would be."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    with CaptionStore.open(path) as store, open(file, "ab", buffering=0) as out:
        os.truncate(file, sum(len(line) + 1 for line in lines))  # a line that was cut off never was
        feed = store.follow(0, cursor=json.loads(lines[-1])["cursor"] if lines else None, poll_s=0.01)
        for item in feed:
            if isinstance(item, NewCaption):
                heard = [item.event.track, item.event.start_ns]
                out.write(json.dumps({"heard": heard, "cursor": feed.cursor}).encode() + b"\n")


def test_kills_of_writer_and_reader_lose_and_repeat_nothing(
    tmp_path: Path, processes: multiprocessing.context.BaseContext
) -> None:
    moments = random.Random(20261128)
    path, log, file = tmp_path / "killed.zarr", tmp_path / "acknowledged", tmp_path / "heard"
    CaptionStore.create(path).writer("cam", INFO).close()
    starts = {
        "writer": lambda: processes.Process(target=write_forever, args=(path, log, MERGING, 0.01)),
        "reader": lambda: processes.Process(target=follow_into, args=(path, file)),
    }
    running = {name: start() for name, start in starts.items()}
    for process in running.values():
        process.start()

    def grown(file: Path, size: int) -> None:
        until = time.monotonic() + 120
        while (file.stat().st_size if file.exists() else 0) <= size:
            assert time.monotonic() < until
            time.sleep(0.005)

    try:
        for _ in range(KILLS):
            for name, grows in (("reader", file), ("writer", log)):
                grown(grows, grows.stat().st_size if grows.exists() else 0)
                time.sleep(moments.uniform(0, 0.1))
                running[name].kill()
                running[name].join()
                running[name] = starts[name]()
                running[name].start()
        running["writer"].kill()
        running["writer"].join()
        with CaptionStore.open(path) as store:
            stored = {(e.track, e.start_ns) for e, _ in store.events("cam")}
        until = time.monotonic() + 120
        while len(
            heard := [tuple(json.loads(line)["heard"]) for line in file.read_bytes().split(b"\n")[:-1]]
        ) < len(stored):
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        for process in running.values():
            process.kill()
            process.join()
    assert len(heard) == len(set(heard))
    assert set(heard) == stored


class FollowedStore(RuleBasedStateMachine):
    """Readers that go on, break off in the midst and begin anew, beside whatever a writer does. Nothing twice, nothing missed."""

    @initialize()
    def create(self) -> None:
        self.path = Path(tempfile.mkdtemp()) / "a.zarr"
        self.store = CaptionStore.create(self.path)
        self.compaction = Compaction(fan_in=2, grace_s=0.0, enabled=False)
        self.writers = {name: self._writer(name) for name in ("cam", "gate")}
        self.open: dict[str, dict[int, CaptionEvent]] = {"cam": {}, "gate": {}}
        self.committed: dict[Key, int] = {}
        self.counts = {"cam": 0, "gate": 0}
        self.forgotten = {"cam": 0, "gate": 0}
        self.feed = self.store.follow(0)
        self.cursor = self.feed.cursor
        self.told: list[Key] = []
        self.at = T0

    def _writer(self, name: str) -> StreamWriter:
        return self.store.writer(name, INFO, compaction=self.compaction)

    def teardown(self) -> None:
        if hasattr(self, "writers"):
            for writer in self.writers.values():
                writer.close()
            shutil.rmtree(self.path.parent)

    @rule(
        name=st.sampled_from(["cam", "gate"]),
        begun=st.sets(st.integers(0, 5), max_size=3),
        closed=st.sets(st.integers(0, 5), max_size=2),
        gap=st.booleans(),
    )
    def commit(self, name: str, begun: set[int], closed: set[int], gap: bool) -> None:
        """All open events grow, as the recorder lets them; a track's new event ends the one before."""
        self.at += S
        rows = [replace(e, end_ns=self.at) for e in self.open[name].values()]
        for track in begun:
            event = CaptionEvent(track, self.at, self.at, 0, 0, 0, (0.0, 0.0, 9.0, 9.0), "a dog", 0.5, 0.0)
            rows.append(event)
            self.open[name][track] = event
        tracks = tuple(ClosedTrack(t, T0, self.at, 1, "") for t in closed - begun if t in self.open[name])
        for one in tracks:
            del self.open[name][one.track]
        gaps = (Gap(self.at, self.at, GapReason.DROPPED, 1),) if gap else ()
        resume = ResumePoint(self.at, self.at, 0, self.at)
        self.writers[name].commit(Batch(captions=tuple(rows), tracks=tracks, gaps=gaps, resume=resume))
        for track in begun:
            self.committed[name, track, self.at] = self.counts[name]
        if gap:
            self.committed[name, -1, self.at] = self.counts[name]
        self.counts[name] += 1

    @rule(name=st.sampled_from(["cam", "gate"]), what=st.sampled_from(["merge", "archive", "restart"]))
    def keep_house(self, name: str, what: str) -> None:
        if what == "merge":
            self.writers[name].compact()
        elif what == "archive":
            self.writers[name].archive_closed_days(T0 + 10**15)
        else:
            self.writers[name].close()
            self.writers[name] = self._writer(name)

    @rule(name=st.sampled_from(["cam", "gate"]), back=st.integers(0, 20))
    def forget(self, name: str, back: int) -> None:
        self.writers[name].forget_before(self.at - back * S)
        names = list_visible(LocalPlace(self.path / "streams" / name)).segments
        self.forgotten[name] = names[0].lo if names else 0

    @rule(most=st.integers(0, 6))
    def read_some(self, most: int) -> None:
        for item in itertools.islice(self.feed.poll(), most):
            self._hear(item)

    @rule()
    def read_on(self) -> None:
        for item in self.feed.poll():
            self._hear(item)

    @rule()
    def begin_anew(self) -> None:
        self.feed = CaptionStore.open(self.path).follow(cursor=json.dumps(json.loads(self.cursor)))

    def _hear(self, item: NewCaption | NewGap) -> None:
        if isinstance(item, NewCaption):
            self.told.append((item.stream, item.event.track, item.event.start_ns))
        elif item.reason is GapReason.DROPPED:
            self.told.append((item.stream, -1, item.span.start))
        else:
            assert item.reason == FORGOTTEN
        self.cursor = self.feed.cursor

    @rule()
    def all_is_told_once(self) -> None:
        self.begin_anew()
        self.read_on()
        assert len(self.told) == len(set(self.told))
        missed = set(self.committed) - set(self.told)
        # Retention is faster than a reader may be: then that was told.
        assert all(self.committed[key] < self.forgotten[key[0]] for key in missed)
        assert set(self.told) <= set(self.committed)


TestFollowedStore = FollowedStore.TestCase
TestFollowedStore.settings = settings(
    max_examples=by_day(2, otherwise=100),
    stateful_step_count=by_day(15, otherwise=40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
