"""A run without torch stores what the model itself would have found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.preparation import EngineRequest, Prepared, essentials_name, note_prepared
from pipeline.core.masks import RleMask, decode_mask
from pipeline.runtime.inline import run_inline
from pipeline.runtime.plan import plan_run
from pipeline.runtime.progress import ProgressOnly, StopRequest
from pipeline.runtime.stages import RunModel
from pipeline.settings.config import RunConfig, load_config
from pipeline.store import CaptionStore
from sca.compiled.essentials import essentials_of
from sca.predictor import Predictor
from tests.duration import LONG
from tests.sca.test_compiled import without_torch
from tests.tiny_checkpoint import LENIENT
from tests.videos import write_video

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"


def stored(store: Path, model: RunModel, config: RunConfig, clip: Path) -> CaptionStore:
    run_inline(plan_run([str(clip)], config, store=store), ProgressOnly(lambda _: None), StopRequest(), model)
    return CaptionStore.open(store)


def check_alike(ours: CaptionStore, reference: CaptionStore) -> None:
    """The same captions of the same tracks, and the same masks."""
    said, wanted = ours.captions().to_pylist(), reference.captions().to_pylist()
    named = ("track", "frame", "text", "t_start", "t_end")
    assert [[row[name] for name in named] for row in said] == [
        [row[name] for name in named] for row in wanted
    ]
    assert len(said) > 0
    for our, their in zip(said, wanted, strict=True):
        assert our["score"] == pytest.approx(their["score"], abs=0.01)
    columns = ["track", "frame", "x0", "y0", "x1", "y1", "mask"]
    seen, expected = (store.observations(columns=columns).to_pylist() for store in (ours, reference))
    corners = ("x0", "y0", "x1", "y1")
    assert [(row["track"], row["frame"]) for row in seen] == [
        (row["track"], row["frame"]) for row in expected
    ]
    assert np.allclose(
        *([[row[name] for name in corners] for row in rows] for rows in (seen, expected)), atol=1.0
    )
    for our, their in zip(seen, expected, strict=True):
        assert (our["mask"] is None) == (their["mask"] is None)
        if our["mask"] is not None:
            left, right = (
                decode_mask(RleMask(tuple(row["mask"]["size"]), row["mask"]["counts"]))
                for row in (our, their)
            )
            assert (left & right).sum() >= 0.99 * (left | right).sum()


def test_a_run_on_arrays_stores_what_a_run_on_torch_does(
    tiny_checkpoint: Path, tiny_predictor: Predictor, tmp_path: Path
) -> None:
    changes = {"model": str(tiny_checkpoint), "runtime.kind": "inline"}
    config = load_config("default", LENIENT, changes=changes)
    clip = write_video(tmp_path / "clip.mp4", frames=60)
    parts = essentials_of(tiny_predictor)
    assert parts is not None
    ours = stored(tmp_path / "ours.zarr", without_torch(tiny_predictor, parts), config, clip)
    check_alike(ours, stored(tmp_path / "reference.zarr", tiny_predictor, config, clip))


@pytest.mark.skipif(not LONG, reason="the shipped model's engines take a minute to build")
@pytest.mark.skipif(not CLIPS.is_dir(), reason="no clips beside the checkout")
@pytest.mark.parametrize("name", ["woman_dog_courtyard", "cars_overhead"])
def test_real_clips_are_stored_as_by_the_model_itself(
    name: str, demo: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.acceleration import obtain_engines
    from engines.cache import EngineCache
    from pipeline.runtime.model_loading import load_predictor

    # In float32, so that a machine which computes bfloat16 by itself gives the same digits.
    monkeypatch.setenv("SCA_ENGINE_CACHE", str(tmp_path.parent / "float32"))
    cache, request = EngineCache(), EngineRequest("demo")
    made = obtain_engines(demo, "openvino", precision="float32", cache=cache)
    if {ready.backend for _, ready in made} != {"openvino"}:
        pytest.skip("this machine computes otherwise than by OpenVINO alone")
    folders = tuple(ready.manifest.key.folder for _, ready in made if ready.manifest is not None)
    note = Prepared(tuple(ready.summary() for _, ready in made), folders, essentials_name(request))
    note_prepared(cache.root, request, note)
    parts = essentials_of(demo)
    assert parts is not None
    parts.write(cache.root / note.essentials)
    config = load_config("default", ["model=demo", "runtime.kind=inline"])
    clip = CLIPS / f"{name}.mp4"
    ours = stored(tmp_path / "ours.zarr", load_predictor(config, 2), config, clip)
    check_alike(ours, stored(tmp_path / "reference.zarr", demo, config, clip))
