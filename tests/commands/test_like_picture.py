"""`--like PICTURE[:BOX]`: the model is loaded only for a picture and a box that are there, and finds what looks like them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.commands.like_image import embedding_of_picture
from pipeline.core.records import Batch, CaptionEvent
from pipeline.store import CaptionStore
from tests.store_samples import BY_HAND, INFO, T0, S
from tests.videos import picture


def query(store: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["query", str(store), "--format", "csv", *words])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a:b.png"
    Image.fromarray(picture(5, 160, 96)).save(path)
    return path


def test_what_looks_like_the_box_is_found(tmp_path: Path, photo: Path, tiny_checkpoint: Path) -> None:
    store = CaptionStore.create(tmp_path / "a.zarr")
    boxes = ("0,0,60,60", "70,20,150,90")
    with store.writer("cam", replace(INFO, model=str(tiny_checkpoint)), compaction=BY_HAND) as writer:
        for track, box in enumerate(boxes):
            vector = embedding_of_picture(store, ["cam"], f"{photo}:{box}", str(tiny_checkpoint))
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
            at = T0 + track * S
            event = CaptionEvent(
                track, at, at + S, 0, 0, 0, (0, 0, 9, 9), f"thing {track}", 0.5, -1.0, np.array(vector)
            )
            writer.commit(Batch(captions=(event,)))
    for track, box in enumerate(boxes):
        found = query(
            store.path,
            "--like",
            f"{photo}:{box}",
            "--min-similarity",
            "0.9999",
            "--model",
            str(tiny_checkpoint),
        )
        assert found.exit_code == 0, found
        assert [line.split(",")[6] for line in found.stdout.splitlines()[1:]] == [f"thing {track}"]


def test_mistakes_are_one_line_before_a_model_is_loaded(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("no model is needed to see this")

    monkeypatch.setattr("sca.load", loaded)
    store = CaptionStore.create(tmp_path / "a.zarr")
    with store.writer("cam", replace(INFO, model="/somebody/elses/model"), compaction=BY_HAND) as writer:
        writer.commit(Batch(captions=(CaptionEvent(1, T0, T0, 0, 0, 0, (0, 0, 9, 9), "x", 0.5, -1.0),)))
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:60])
    for typed, message in (
        (f"{tmp_path}/none.png", "there is no such picture"),
        (str(tmp_path), "there is no such picture"),
        (str(broken), "cannot be read as a picture"),
        (str(tmp_path / "a.zarr/zarr.json"), "cannot be read as a picture"),
        (f"{photo}:0,0,161,96", "within the 160 x 96 pixels"),
        (f"{photo}:9,9,9,20", "within the 160 x 96 pixels"),
        (f"{photo}:1,2,3", "there is no such picture"),
        (f"{photo}:0,0,60,60", "say --model to have it loaded"),
    ):
        told = str(query(store.path, "--like", typed).exception)
        assert message in told, told
    assert "choose one" in str(query(store.path, "--like", str(photo), "--like-track", "1").exception)
