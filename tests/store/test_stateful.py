"""A store beside a model of it in memory, through whatever order of writing, merging, archiving, forgetting and erasing."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.core.records import Batch, CaptionEvent, Observation
from pipeline.store import CaptionStore, Compaction, StreamWriter
from pipeline.store.erasing import ErasedRows
from pipeline.store.place import LocalPlace
from pipeline.store.row_filter import RowFilter
from pipeline.store.stream_directory import list_visible
from tests.duration import by_day
from tests.store.test_query import DAY, batches, filters, matches
from tests.store_samples import INFO, T0, embeddings, newest_events

SETTINGS = Compaction(fan_in=2, grace_s=0.0, enabled=False)


class StoreBesideAModel(RuleBasedStateMachine):
    """`self.commits`: what each commit holds, None once it was forgotten."""

    @initialize()
    def create(self) -> None:
        self.path = Path(tempfile.mkdtemp()) / "a.zarr"
        self.store = CaptionStore.create(self.path)
        self.writer: StreamWriter = self.store.writer("cam", INFO, compaction=SETTINGS)
        self.commits: list[Batch | None] = []

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
            shutil.rmtree(self.path.parent)

    @rule(batch=batches())
    def commit(self, batch: Batch) -> None:
        moved = batch.resume != self.writer.resume
        self.writer.commit(batch)
        if moved or batch.captions or batch.observations:
            self.commits.append(batch)

    @rule()
    def merge(self) -> None:
        self.writer.compact()

    @rule()
    def archive(self) -> None:
        self.writer.archive_closed_days(T0 + DAY)

    @rule()
    def write_on(self) -> None:
        self.writer.close()
        self.writer = self.store.writer("cam", INFO, compaction=SETTINGS)

    @rule(after=st.integers(0, 90))
    def forget(self, after: int) -> None:
        self.writer.forget_before(T0 + after)
        names = list_visible(LocalPlace(self.path / "streams/cam")).segments
        first = names[0].lo if names else 0
        for number in range(first):
            batch = self.commits[number]
            ends = (
                []
                if batch is None
                else [*(e.end_ns for e in batch.captions), *(o.wall_ns for o in batch.observations)]
            )
            assert all(end < T0 + after for end in ends)
            self.commits[number] = None

    @rule(track=st.integers(0, 3))
    def erase_a_track(self, track: int) -> None:
        self.writer.erase(ErasedRows(track=track))
        self._keep(lambda e: e.track != track, lambda o: o.track != track)

    @rule(start=st.integers(0, 60), length=st.integers(0, 10))
    def erase_a_time(self, start: int, length: int) -> None:
        first, last = T0 + start, T0 + start + length
        self.writer.erase(ErasedRows(first, last))
        gone = {
            (e.track, e.start_ns)
            for b in self.commits
            if b
            for e in b.captions
            if e.start_ns <= last and e.end_ns >= first
        }
        self._keep(lambda e: (e.track, e.start_ns) not in gone, lambda o: not first <= o.wall_ns <= last)

    def _keep(self, events, observations) -> None:  # type: ignore[no-untyped-def]
        self.commits = [
            b
            and replace(
                b,
                captions=tuple(filter(events, b.captions)),
                observations=tuple(filter(observations, b.observations)),
            )
            for b in self.commits
        ]

    @rule(one=filters)
    def ask(self, one: RowFilter) -> None:
        if one.start is not None and one.end is not None and one.start > one.end:
            one = replace(one, start=one.end, end=one.start)
        found = [event for event, _ in self.store.matching("cam", one, masks=True, embeddings=True)]
        expected = [e for e in self._events() if matches(e, one)]
        assert found == expected
        assert embeddings(found) == embeddings(expected)
        backwards = [event for event, _ in self.store.matching("cam", one, masks=True, newest=True)]
        assert backwards == sorted(expected, key=lambda e: (-e.start_ns, e.track))

    @invariant()
    def everything_is_there(self) -> None:
        if hasattr(self, "store"):
            with CaptionStore.open(self.path, strict=True) as fresh:
                assert [event for event, _ in fresh.events("cam", masks=True)] == self._events()
                seen = fresh.observations()
                found = list(zip(seen["t"].cast("int64").to_pylist(), seen["track"].to_pylist(), strict=True))
            assert found == sorted((o.wall_ns, o.track) for o in self._observations())

    def _events(self) -> list[CaptionEvent]:
        return newest_events([b for b in self.commits if b is not None])

    def _observations(self) -> list[Observation]:
        return [o for b in self.commits if b is not None for o in b.observations]


TestStore = StoreBesideAModel.TestCase
TestStore.settings = settings(
    max_examples=by_day(3, otherwise=500),
    stateful_step_count=by_day(8, otherwise=50),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
