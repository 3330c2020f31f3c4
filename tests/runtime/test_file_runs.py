"""Whole runs over files as people have them: stopped and gone on with, grown, slide shows, pixels that are not square."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import GapReason
from pipeline.perception.perceiver import Perception, Sightings
from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import ProgressOnly, StopRequest, StreamProgress
from pipeline.settings.config import RunConfig, load_config
from pipeline.store import CaptionStore
from sca.predictor import Predictor
from tests.media.films import Film, write_film
from tests.sources.test_standing import slides
from tests.tiny_checkpoint import LENIENT
from tests.videos import picture

NS = 1_000_000_000
START = 1_767_268_800 * NS


@pytest.fixture
def config(tiny_checkpoint: Path) -> RunConfig:
    return load_config("default", LENIENT, changes={"model": str(tiny_checkpoint), "runtime.kind": "inline"})


def run(config: RunConfig, film: Path, store: Path, model: Predictor, *, steps: int | None = None) -> bool:
    """Run to the end, or stop as Ctrl-C does after so many steps. Whether it came to the end."""
    stop = StopRequest()
    left = steps

    def tell(_: StreamProgress) -> None:
        nonlocal left
        if left is not None:
            left -= 1
            if left <= 0:
                stop.set()

    start = None if store.exists() else START
    plan = plan_run([str(film)], config, store=store, start_ns=start, name="film")
    if plan.streams[0].complete:
        return True
    (progress,) = run_inline(plan, ProgressOnly(tell), stop, model)
    return progress.finished


def times(store: Path) -> list[float]:
    """When something was observed, in seconds from the start of the film."""
    with CaptionStore.open(store) as opened:
        table = opened.observations(stream="film").to_pandas()
    return sorted({round((at.value - START) / NS, 6) for at in table["t"]})


def test_a_broadcast_stopped_five_times_has_the_observations_of_an_undisturbed_run(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    film = Film("ts", count=500, gop=100, bframes=2, size=(160, 96))
    path = write_film(film, tmp_path / "clip.ts", picture)
    run(config, path, tmp_path / "whole.zarr", tiny_predictor)
    whole = times(tmp_path / "whole.zarr")
    assert whole[-1] == pytest.approx(19.96)
    choose = random.Random(5)
    store = tmp_path / "stopped.zarr"
    for _ in range(5):
        assert not run(config, path, store, tiny_predictor, steps=choose.randint(2, 8))
    assert run(config, path, store, tiny_predictor)
    assert times(store) == whole
    with CaptionStore.open(store) as opened:
        assert opened.gaps(stream="film").num_rows == 0
        assert opened.resume("film").frame == 499


def test_a_recording_that_has_grown_is_gone_on_with(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    whole = write_film(Film("mkv", count=200, gop=10, size=(160, 96)), tmp_path / "whole.mkv", picture)
    film = tmp_path / "film.mkv"
    film.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    store = tmp_path / "s.zarr"
    assert run(config, film, store, tiny_predictor)
    known = times(store)
    assert known[-1] < 6
    film.write_bytes(whole.read_bytes())
    assert run(config, film, store, tiny_predictor)
    after = times(store)
    assert after[: len(known)] == known
    assert after[-1] == pytest.approx(7.96)
    assert max(b - a for a, b in pairwise(after)) < 1.1
    other = write_film(Film("mkv", count=200, gop=10, first=500), tmp_path / "other.mkv")
    film.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="another video"):
        run(config, film, store, tiny_predictor)


def test_slides_are_watched_as_long_as_they_are_shown(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    store = tmp_path / "s.zarr"
    assert run(config, slides(tmp_path, picture), store, tiny_predictor)
    seen = times(store)
    assert any(4 <= at <= 6 for at in seen)
    assert any(14 <= at <= 16 for at in seen)
    with CaptionStore.open(store) as opened:
        span = opened.span("film")
        assert span is not None
        assert (span.start, span.end) == (START, START + 20 * NS)
        assert opened.captions(START + 5 * NS, START + 6 * NS, stream="film").num_rows > 0
        assert opened.captions(START + 15 * NS, START + 16 * NS, stream="film").num_rows > 0


def test_a_picture_that_stands_for_hours_is_looked_at_a_few_times_only(
    tiny_checkpoint: Path, tmp_path: Path, tiny_predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    look = Perception.look

    def counted(*given: Any, **named: Any) -> Sightings:
        looks.append(1)
        return look(*given, **named)

    monkeypatch.setattr(Perception, "look", counted)
    changes = {"model": str(tiny_checkpoint), "runtime.kind": "inline", "sources.image_interval_s": 300.0}
    (tmp_path / "photos").mkdir()
    for number in range(2):
        photo(tmp_path / "photos" / f"{number}.png", number)
    store = tmp_path / "s.zarr"
    assert run(load_config("default", LENIENT, changes=changes), tmp_path / "photos", store, tiny_predictor)
    assert len(looks) == 8
    seen = times(store)
    assert max(b - a for a, b in pairwise(seen)) <= 3
    assert (seen[0], round(seen[-1])) == (0, 600)
    with CaptionStore.open(store) as opened:
        assert opened.captions(START + 550 * NS, START + 551 * NS, stream="film").num_rows > 0


def photo(path: Path, seed: int) -> None:
    """A picture that has nothing in common with another seed's."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (160, 96), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize("interval_s", [1.0, 3.0])
def test_each_photo_of_a_folder_has_its_regions_and_captions_and_the_folder_may_grow(
    tiny_checkpoint: Path, tmp_path: Path, tiny_predictor: Predictor, interval_s: float
) -> None:
    changes = {"sources.image_interval_s": interval_s, "keyframes.interval_s": 2.0}
    model = {"model": str(tiny_checkpoint), "runtime.kind": "inline"}
    config = load_config("default", LENIENT, changes={**model, **changes})
    folder, store = tmp_path / "photos", tmp_path / "s.zarr"
    folder.mkdir()
    # Two of the same view follow each other: no cut lies between them.
    for number, seed in enumerate((1, 2, 2, 3)):
        photo(folder / f"{number}.png", seed)
    assert run(config, folder, store, tiny_predictor)
    assert run(config, folder, store, tiny_predictor)
    for number in (4, 10):
        photo(folder / f"{number}.png", number)
    assert run(config, folder, store, tiny_predictor)
    with CaptionStore.open(store) as opened:
        seen = opened.observations(stream="film").to_pandas()
        captions = opened.captions(stream="film").to_pandas()
        cuts = opened.cuts(stream="film").num_rows
    # None where the run went on: what was seen last is not compared.
    assert cuts == 3
    for number in range(6):
        whole = seen[(seen["frame"] == number) & (abs(seen["t_s"] - number * interval_s) < 0.01)]
        assert len(whole) > 0
        assert set(whole["track"]) <= set(captions["track"])
    photo(folder / "0.png", 77)
    with pytest.raises(UserError, match="is another video"):
        run(config, folder, store, tiny_predictor)


def test_boxes_keep_to_one_scale_and_the_store_says_what_was_done_to_the_pixels(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor
) -> None:
    parts = [
        Film("ts", count=30, size=(128, 96), aspect=Fraction(3, 2), stamps=tuple(range(0, 1200, 40))),
        Film("ts", count=30, size=(256, 192), aspect=Fraction(3, 2), stamps=tuple(range(1200, 2400, 40))),
    ]
    written = [write_film(film, tmp_path / f"{number}.ts", picture) for number, film in enumerate(parts)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in written))
    store = tmp_path / "s.zarr"
    assert run(config, path, store, tiny_predictor)
    with CaptionStore.open(store) as opened:
        info = opened.streams()["film"]
        assert (info.width, info.height, info.pixel_aspect) == (192, 96, "3/2")
        boxes = opened.observations(stream="film").to_pandas()
        assert boxes["x1"].max() <= 192
        assert boxes["y1"].max() <= 96
        (note,) = opened.gaps(stream="film").to_pylist()
        assert note["reason"] == GapReason.RESIZED
        assert note["t_start"] == note["t_end"]
        assert opened.coverage(stream="film") == 1


@pytest.mark.parametrize("size", [(1, 1), (33, 17)])
def test_odd_pictures_are_drawn_whole(
    config: RunConfig, tmp_path: Path, tiny_predictor: Predictor, size: tuple[int, int]
) -> None:
    from rich.console import Console

    from pipeline.commands.run_steps import annotate_run

    path = write_film(Film("mov", "png", count=5, size=size), tmp_path / "clip.mov", picture)
    store = tmp_path / "s.zarr"
    assert run(config, path, store, tiny_predictor)
    out = tmp_path / "out.mp4"
    annotate_run(plan_run([str(path)], config, store=store, name="film"), out, Console(quiet=True))
    with av.open(str(out)) as drawn:
        video = drawn.streams.video[0]
        assert (video.width, video.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert sum(1 for _ in drawn.decode(video)) == 5
