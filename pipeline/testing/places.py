"""What every place of a store keeps: see `pipeline.store.place.StorePlace`."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from pipeline.core.frame import ClockSource
from pipeline.core.records import Batch, CaptionEvent, ResumePoint
from pipeline.store import CaptionStore, Compaction, StreamInfo
from pipeline.store.place import PlaceHeld, StorePlace

_S = 1_000_000_000
_INFO = StreamInfo("yard.mp4", ClockSource.FILE, 1_700_000_000 * _S, 64, 48)


class StorePlaceTests:
    """Subclass it; say `place` and the `address` that leads to it."""

    def place(self, path: Path) -> StorePlace:
        """An empty place, a new one for each empty `path`."""
        raise NotImplementedError

    def address(self, path: Path) -> str:
        """What `CaptionStore.create` and `open` take for a place of this kind, a new one for each empty `path`."""
        raise NotImplementedError

    @pytest.fixture
    def empty(self, tmp_path: Path) -> StorePlace:
        place = self.place(tmp_path)
        place.prepare("hot")
        return place

    def test_what_was_put_is_there_and_listed(self, empty: StorePlace) -> None:
        empty.put("hot/a.bin", b"first")
        empty.put("hot/b.bin", b"")
        assert sorted(empty.list("hot")) == ["a.bin", "b.bin"]
        assert empty.read("hot/a.bin") == b"first"
        assert empty.exists("hot/a.bin")
        assert not empty.exists("hot/c.bin")
        assert empty.list("nowhere") == []
        assert "hot" in empty.list()

    def test_stamps_and_sizes_are_told_of_many_at_once(self, empty: StorePlace) -> None:
        empty.put("hot/a.bin", b"first")
        empty.put("hot/b.bin", b"")
        empty.prepare("hot/below")
        empty.put("hot/below/c.bin", b"xyz")
        stamps = empty.stamps("hot")
        assert set(stamps) == {"a.bin", "b.bin", "below"}
        assert stamps["a.bin"] == empty.stamp("hot/a.bin")
        assert empty.sizes("hot", ["a.bin", "below/c.bin", "none.bin"]) == {"a.bin": 5, "below/c.bin": 3}
        assert empty.sizes("hot") == {"a.bin": 5, "b.bin": 0, "below/c.bin": 3}
        assert empty.stamps("nowhere") == {}

    def test_what_is_larger_than_it_may_be_is_not_read(self, empty: StorePlace) -> None:
        empty.put("hot/a.bin", b"12345")
        assert empty.read("hot/a.bin", 5) == b"12345"
        with pytest.raises(OSError, match="larger"):
            empty.read("hot/a.bin", 4)

    def test_a_missing_key_is_told(self, empty: StorePlace) -> None:
        for ask in (empty.read, empty.open, empty.stamp, empty.delete):
            with pytest.raises(FileNotFoundError):
                ask("hot/none.bin")

    def test_a_folder_is_a_place_of_its_own(self, empty: StorePlace) -> None:
        below = empty.below("streams/yard")
        below.prepare("hot")
        below.put("hot/a.bin", b"x")
        assert empty.read("streams/yard/hot/a.bin") == b"x"
        assert below.where == f"{empty.where}/streams/yard"
        assert hash(empty.below("streams/yard")) == hash(below)
        assert empty.below("streams/yard") == below

    def test_ranges_are_read_also_when_the_key_goes_away(self, empty: StorePlace) -> None:
        data = bytes(range(100)) * 10_000
        empty.put("hot/a.bin", data)
        with empty.open("hot/a.bin") as file:
            for begin, count in ((90, 5), (500_001, 70_000), (0, 1), (999_990, 20)):
                file.seek(begin)
                assert file.read(count) == data[begin : begin + count]
            empty.delete("hot/a.bin")
            file.seek(-10, 2)
            assert file.read() == data[-10:]
            file.seek(300_000)
            with contextlib.suppress(FileNotFoundError):  # but never anything else than what was there
                assert file.read(100) == data[300_000:300_100]

    def test_putting_again_replaces_and_changes_the_stamp(self, empty: StorePlace) -> None:
        empty.put("hot/a.bin", b"one")
        before = empty.stamp("hot/a.bin")
        empty.put("hot/a.bin", b"three")
        assert empty.read("hot/a.bin") == b"three"
        assert empty.stamp("hot/a.bin") != before
        assert empty.stamp("hot/a.bin").size == 5

    def test_nobody_sees_half_of_what_is_put(self, empty: StorePlace) -> None:
        contents = [bytes([n]) * 100_000 for n in range(4)]
        empty.put("hot/a.bin", contents[0])
        stop = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not stop.is_set():
                seen.add(empty.read("hot/a.bin"))
                assert empty.list("hot").count("a.bin") == 1

        reader = threading.Thread(target=read)
        reader.start()
        for round_ in range(5):
            empty.put("hot/a.bin", contents[round_ % 4])
        stop.set()
        reader.join()
        assert seen <= set(contents)

    def test_one_of_several_gets_a_claim(self, empty: StorePlace) -> None:
        won: list[int] = []

        def claim(number: int) -> None:
            try:
                empty.claim("hot/0001.json")
            except FileExistsError:
                return
            won.append(number)

        threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert empty.stamp("hot/0001.json").size == 0

    def test_a_folder_goes_with_all_that_is_in_it(self, empty: StorePlace) -> None:
        for key in ("day/x/1", "day/x/y/2"):
            empty.prepare(key.rpartition("/")[0])
            empty.put(key, b"1")
        empty.delete("day/x")
        empty.settle("day")
        assert empty.list("day") == []

    def test_a_hold_is_one_persons_until_it_is_released(self, empty: StorePlace) -> None:
        hold = empty.hold("writer.lock")
        with pytest.raises(PlaceHeld):
            empty.hold("writer.lock")
        hold.release()
        empty.hold("writer.lock").release()

    def test_a_store_lives_there(self, tmp_path: Path) -> None:
        """Commits, a second writer that is refused, merges, forgetting, and queries by time."""
        address = self.address(tmp_path)
        CaptionStore.create(address)
        store = CaptionStore.open(address)
        start = _INFO.start_wall_ns
        with store.writer("yard", _INFO, compaction=Compaction(fan_in=3, grace_s=0, enabled=False)) as writer:
            with pytest.raises(ValueError, match="is being written by"):
                store.writer("yard", _INFO)
            for n in range(7):
                at = start + n * _S
                event = CaptionEvent(
                    1, at, at + _S, n * _S, (n + 1) * _S, n, (0, 0, 1, 1), f"dog {n}", 0.5, -1
                )
                writer.commit(Batch(captions=(event,), resume=ResumePoint(n * _S, n, 0, at)))
            writer.compact()
            writer.compact()
        again = CaptionStore.open(address)
        assert list(again.streams()) == ["yard"]
        assert again.resume("yard").frame == 6
        assert again.captions().column("text").to_pylist() == [f"dog {n}" for n in range(7)]
        found = again.captions(start + 2 * _S + 1, start + 3 * _S - 1)
        assert found.column("text").to_pylist() == ["dog 2"]
        assert again.forget_before(start + 3 * _S + 1) >= 1
        assert "dog 6" in again.captions().column("text").to_pylist()
        with again.writer("yard", _INFO) as writer:
            assert writer.resume.frame == 6
