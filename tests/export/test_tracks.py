"""Formats of tracks: boxes and masks in each keyframe, read back by the programs that the formats are of; and the drawn film."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.core.errors import UserError
from pipeline.core.masks import encode_masks
from pipeline.core.records import Batch, CaptionEvent, Gap, GapReason, Observation, ResumePoint
from pipeline.store import CaptionStore
from tests.duration import LONG
from tests.store_samples import BY_HAND, INFO, T0, S
from tests.videos import write_video

KEYFRAMES = 6
PIXELS = np.zeros((1, 480, 640), bool)
PIXELS[0, 120:240, 160:320] = True
((MASK,), _) = encode_masks(PIXELS, (480, 640))


def seen(track: int, number: int) -> Observation:
    t = T0 + number * S
    return Observation(
        t, number * S, number * 25, track, (160.0 + number, 120.0, 320.0 + number, 240.5), 0.75, MASK
    )


def called(track: int, first: int, last: int, text: str, score: float) -> CaptionEvent:
    times = (T0 + first * S, T0 + last * S, first * S, last * S)
    return CaptionEvent(track, *times, first * 25, (160.0, 120.0, 320.0, 240.0), text, score, -0.5)


@pytest.fixture
def store(tmp_path: Path) -> CaptionStore:
    """Track 1 is a dog, then a horse; track 2 a man from the third keyframe on, of whom the fourth is not seen."""
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", INFO, compaction=BY_HAND) as writer:
        for number in range(KEYFRAMES):
            events = {
                2: (called(1, 0, 2, "a dog", 0.5),),
                5: (called(1, 3, 5, "a horse", 0.9), called(2, 2, 5, "a man", 0.8)),
            }.get(number, ())
            tracks = [1] + [2] * (number >= 2 and number != 3)
            gaps = (Gap(T0, T0 + S // 2, GapReason.DROPPED, 3),) if not number else ()
            writer.commit(
                Batch(
                    tuple(seen(track, number) for track in tracks), events, gaps=gaps,
                    resume=ResumePoint(number * S, number, 0, T0 + number * S),
                )
            )  # fmt: skip
    return CaptionStore.open(store.path)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_mot_has_a_line_for_each_named_track_in_each_keyframe(store: CaptionStore, tmp_path: Path) -> None:
    done = run(store.path, tmp_path / "out.mot")
    assert done.exit_code == 0, done
    assert "was watched (1 gap: dropped)" in done.stderr
    read = np.loadtxt(tmp_path / "out.mot", delimiter=",")
    assert read.shape == (KEYFRAMES + 3, 10)
    assert read[read[:, 1] == 1][:, 0].tolist() == [1, 26, 51, 76, 101, 126]
    assert read[read[:, 1] == 2][:, 0].tolist() == [51, 101, 126]
    assert read[1].tolist() == [26, 1, 162, 121, 160, 120.5, 0.75, -1, -1, -1]
    run(store.path, tmp_path / "dog.mot", "--word", "dog", "--from", "1s")
    assert np.loadtxt(tmp_path / "dog.mot", delimiter=",")[:, :2].tolist() == [[26, 1], [51, 1]]
    run(store.path, tmp_path / "two.mot", "--limit", "2")
    assert len(np.loadtxt(tmp_path / "two.mot", delimiter=",")) == 2


def test_tracks_as_youtube_vis_hold_an_entry_for_each_keyframe(store: CaptionStore, tmp_path: Path) -> None:
    assert run(store.path, tmp_path / "out.json", "--format", "ytvis", "--masks").exit_code == 0
    document = json.loads((tmp_path / "out.json").read_text())
    (video,) = document["videos"]
    assert (video["length"], video["height"], video["width"]) == (KEYFRAMES, 480, 640)
    assert len(video["file_names"]) == KEYFRAMES
    names = {category["id"]: category["name"] for category in document["categories"]}
    first, second = document["annotations"]
    assert [names[one["category_id"]] for one in (first, second)] == ["a horse", "a man"]
    assert first["captions"] == ["a horse", "a dog"]
    assert [box is None for box in second["bboxes"]] == [True, True, False, True, False, False]
    assert first["bboxes"][1] == [161, 120, 160, 120.5]
    for box, segmentation, area in zip(first["bboxes"], first["segmentations"], first["areas"], strict=True):
        drawn = coco_mask.decode(coco_mask.frPyObjects(segmentation, 480, 640))
        assert drawn.shape == (480, 640)
        assert drawn.sum() == area == pytest.approx(PIXELS.sum(), rel=0.1)
        assert box is not None
    run(store.path, tmp_path / "boxes.json", "--format", "ytvis")
    assert "segmentations" not in (tmp_path / "boxes.json").read_text()


def compressed(mask: dict[str, object]) -> dict[str, object]:
    code = coco_mask.frPyObjects(mask, 480, 640)
    return {**code, "counts": code["counts"].decode()}


@pytest.mark.skipif(not LONG, reason="imports trackeval, which takes seconds: make test-all")
def test_trackeval_finds_the_tracks_in_what_was_written(store: CaptionStore, tmp_path: Path) -> None:
    trackeval = pytest.importorskip("trackeval")
    run(store.path, tmp_path / "out.json", "--format", "ytvis", "--masks")
    document = json.loads((tmp_path / "out.json").read_text())
    truth, found = tmp_path / "gt_youtube_vis_x", tmp_path / "found_youtube_vis_x/ours/data"
    truth.mkdir(parents=True)
    found.mkdir(parents=True)
    (truth / "instances.json").write_text(json.dumps(document))
    for one in document["annotations"]:
        one["segmentations"] = [mask and compressed(mask) for mask in one["segmentations"]]
    (found / "results.json").write_text(json.dumps(document["annotations"]))
    dataset = trackeval.datasets.YouTubeVIS(
        {"GT_FOLDER": f"{tmp_path}/gt_", "TRACKERS_FOLDER": f"{tmp_path}/found_", "PRINT_CONFIG": False, "SPLIT_TO_EVAL": "x"}
    )  # fmt: skip
    (sequence,) = dataset.seq_list
    raw = dataset.get_raw_seq_data("ours", sequence)
    assert sum(len(ids) for ids in raw["gt_ids"]) == KEYFRAMES + 3


def test_too_many_entries_are_refused_with_the_remedy(
    store: CaptionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.ytvis.MOST_CELLS", 11)
    failed = run(store.path, tmp_path / "out.json", "--format", "ytvis")
    assert isinstance(failed.exception, UserError)
    assert "choose less time" in str(failed.exception)
    assert not (tmp_path / "out.json").exists()


def test_captions_are_drawn_into_the_film_within_the_window_and_as_asked(
    store: CaptionStore, tmp_path: Path
) -> None:
    film = write_video(
        tmp_path / "film.mp4", pts=[n * 12800 for n in range(KEYFRAMES)], width=640, height=480
    )
    moved = replace(INFO, uri=str(film))
    with store.writer("cam", moved, compaction=BY_HAND):
        pass

    def pictures(out: Path) -> list[np.ndarray]:
        with av.open(str(out)) as container:
            return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]

    plain = pictures(film)
    for name, options, first, changed in (
        ("all.mp4", (), 0, [True] * 6),
        ("dog.mkv", ("--word", "dog"), 0, [True, True, True, False, False, False]),
        ("part.mov", ("--from", "2s", "--to", "4s", "--film", str(film)), 2, [True] * 3),
    ):
        done = run(store.path, tmp_path / name, *options)
        assert done.exit_code == 0, done
        drawn = pictures(tmp_path / name)
        assert len(drawn) == len(changed)
        inside = [abs(a - b)[100:260, 140:340].mean() > 8 for a, b in zip(drawn, plain[first:], strict=False)]
        assert inside == changed


def test_mistakes_about_films_are_one_line(store: CaptionStore, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", frames=3)
    for words, message in (
        ((tmp_path / "a.mp4",), "name the film with --film"),
        ((tmp_path / "a.mp4", "--film", other), "160 x 96 pixels"),
        ((tmp_path / "a.srt", "--film", other), "mp4, mkv or mov"),
        ((other, "--film", other), "the input itself"),
        ((tmp_path / "a.mp4", "--masks"), "holds no masks"),
        ((tmp_path / "a.avi",), "cannot tell the format"),
    ):
        assert message in str(run(store.path, *words).exception), words
