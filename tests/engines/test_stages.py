"""The shipped model's stages on real compilers: the same numbers, the same captions, found again the next time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.acceleration import accelerate
from engines.backends.interface import Engine
from engines.cache import EngineCache
from engines.devices import probe
from engines.probes import ModelProbes, reference_frames
from engines.seen import SeenRegions
from engines.workshop import BuildPolicy, Workshop
from sca.predictor import Predictor
from sca.stages.language import language_stages
from sca.stages.names import LANGUAGE, VISION
from sca.stages.spec import Stage
from sca.stages.vision import model_stages
from tests.duration import LONG

MAX_PROMPTS = 40
BOXES = [[10, 10, 200, 200], [100, 40, 280, 280], [5, 150, 120, 290]]


@pytest.fixture(scope="module")
def predictor(demo: Predictor) -> Predictor:
    return demo


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="module")
def accelerated(predictor: Predictor, cache: EngineCache) -> Predictor:
    return accelerate(predictor, precision="float32", max_prompts=MAX_PROMPTS, cache=cache)


@pytest.fixture(scope="module")
def stages(predictor: Predictor) -> dict[str, Stage]:
    model = predictor.model
    return {
        stage.name: stage
        for stage in (*model_stages(model, MAX_PROMPTS), *language_stages(model, MAX_PROMPTS))
    }


@pytest.fixture(scope="module")
def probes(predictor: Predictor) -> ModelProbes:
    return ModelProbes(predictor.model)


# ONNX Runtime serves where OpenVINO is missing; its suite of back ends runs by day, the shipped stages on it take a minute.
@pytest.fixture(scope="module", params=["openvino", "onnxruntime"] if LONG else ["openvino"])
def engines(
    request: pytest.FixtureRequest, probes: ModelProbes, cache: EngineCache, stages: dict[str, Stage]
) -> dict[str, Engine]:
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    workshop = Workshop(cache, probe("cpu"))
    made = {}
    for name, stage in stages.items():
        ready = workshop.obtain(
            stage, lambda name=name: probes.of(name), backend=request.param, precision="float32"
        )
        assert ready.backend == request.param, ready.refused
        assert ready.manifest is not None
        check = ready.manifest.verified_on(probe("cpu").fingerprint)
        assert check is not None
        assert check.report.passed
        # Boxes are proposed before anything is captioned: what they lead to is the mask decoder's.
        same = check.report.same_tokens
        assert same or (same is None and name == "box-proposer"), (
            "the captions of real frames must be the same"
        )
        made[name] = ready.engine
    return made


@pytest.mark.parametrize("prompts", [1, 7, 33])
@pytest.mark.parametrize("name", ["mask-decoder", "mixer"])
@torch.inference_mode()
def test_every_number_of_prompts_gives_the_numbers_of_torch(
    name: str, prompts: int, engines: dict[str, Engine], stages: dict[str, Stage]
) -> None:
    stage = stages[name]
    for tokens in stage.axes().values():
        if tokens.name == "prompts":
            continue
        for length in (tokens.minimum, tokens.minimum + 3):
            inputs = stage.example(prompts=prompts, seed=prompts, **{tokens.name: length})
            for expected, got in zip(stage.module(*inputs), engines[name](*inputs), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frames", [1, 3])
@torch.inference_mode()
def test_every_number_of_frames_gives_the_numbers_of_torch(
    frames: int, engines: dict[str, Engine], stages: dict[str, Stage]
) -> None:
    for name in ("image-encoder", "caption-encoder"):
        inputs = stages[name].example(frames=frames)
        for expected, got in zip(stages[name].module(*inputs), engines[name](*inputs), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_an_engine_proposes_the_boxes_that_the_model_does(
    predictor: Predictor, accelerated: Predictor
) -> None:
    for frame in reference_frames():
        expected, got = (one.propose(one.encode(frame)) for one in (predictor, accelerated))
        assert len(expected.boxes) > 3
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-3)
        np.testing.assert_allclose(got.boxes, expected.boxes, atol=0.5)


@torch.inference_mode()
def test_the_two_encoders_give_what_the_model_gives(predictor: Predictor, stages: dict[str, Stage]) -> None:
    (pixels,) = stages["image-encoder"].example(frames=1)
    expected = predictor.model.encode_image(pixels)
    embedding, fine = stages["image-encoder"].module(pixels)
    (caption_map,) = stages["caption-encoder"].module(pixels)
    torch.testing.assert_close(embedding, expected.embedding)
    torch.testing.assert_close(torch.cat([fine, caption_map], dim=1), expected.region_map)


@pytest.fixture(scope="module")
def seen(predictor: Predictor) -> Iterator[SeenRegions]:
    """One photograph of the three, for time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.seen.LEAST_REGIONS", 20)
        yield SeenRegions(predictor.model, reference_frames()[2:], predictor.automatic)


def test_what_is_seen_stays_with_an_encoder_that_computes_the_same(
    seen: SeenRegions, engines: dict[str, Engine]
) -> None:
    report = seen.with_image_encoder(engines["image-encoder"])
    assert report is not None
    assert report.regions >= 20
    assert (report.same_masks, report.same_captions) == (1.0, 1.0)
    assert not report.failures()


def test_masks_and_captions_that_change_are_counted_and_refuse_the_engine(
    seen: SeenRegions, engines: dict[str, Engine]
) -> None:
    """Blurred pixels: most features look alike, but outlines move."""

    def blurred(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return engines["image-encoder"](torch.nn.functional.avg_pool2d(pixels, 7, 1, 3))

    report = seen.with_image_encoder(blurred)
    assert report is not None
    assert report.same_masks is not None
    assert report.same_masks < 0.9
    assert report.same_captions < 0.98
    masks, captions = report.failures()
    assert f"{report.same_masks:.1%} of {report.regions} regions" in masks
    assert "captions" in captions


@pytest.mark.parametrize("rows", [1, 7, 33])
@pytest.mark.parametrize("name", ["language-prefill", "language-step"])
@torch.inference_mode()
def test_every_number_of_captions_gives_the_numbers_of_torch(
    name: str, rows: int, engines: dict[str, Engine], stages: dict[str, Stage]
) -> None:
    inputs = stages[name].example(rows=rows)
    for expected, got in zip(stages[name].module(*inputs), engines[name](*inputs), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_captions_of_several_callers_on_engines_are_those_of_eager(
    predictor: Predictor, accelerated: Predictor
) -> None:
    """Three threads caption at once, so that regions join while others are under way."""
    frames = reference_frames()
    features = []
    for frame in frames:
        encoding = predictor.encode(frame)
        points = [[[x, y]] for x in range(40, 280, 40) for y in range(40, 280, 60)]
        features.append(predictor.region_features(encoding, predictor.segment(encoding, points=points)))
    expected = [[caption.token_ids for caption in predictor.caption(each)] for each in features]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(accelerated.caption, features))
    assert [[caption.token_ids for caption in each] for each in got] == expected


def test_on_cpu_openvino_computes_every_stage(accelerated: Predictor) -> None:
    assert [line.split(":")[0] for line in accelerated.stages.origin] == [*VISION, *LANGUAGE]
    assert all("openvino" in line for line in accelerated.stages.origin)


def test_the_next_start_builds_nothing(
    predictor: Predictor, accelerated: Predictor, cache: EngineCache
) -> None:
    said: list[str] = []
    again = accelerate(
        predictor,
        precision="float32",
        max_prompts=MAX_PROMPTS,
        cache=cache,
        policy=BuildPolicy.NEVER,
        report=said.append,
    )
    assert again.stages.origin == accelerated.stages.origin
    assert said == []


@pytest.mark.parametrize("frame", reference_frames(), ids=["astronaut", "chelsea", "coffee"])
def test_engines_change_no_caption(frame: np.ndarray, predictor: Predictor, accelerated: Predictor) -> None:
    expected, got = predictor.describe(frame, BOXES), accelerated.describe(frame, BOXES)
    assert [caption.token_ids for caption in got] == [caption.token_ids for caption in expected]
    for ours, theirs in zip(expected, got, strict=True):
        assert theirs.score == pytest.approx(ours.score, abs=1e-3)


@pytest.mark.parametrize(
    "prompts",
    [
        {"boxes": BOXES * 30},
        {"points": [[[50, 60], [90, 20]]], "labels": [[1, 0]], "multimask": False},
        {"points": [[[50, 60]]] * 3, "boxes": BOXES},
        {"boxes": BOXES[:1], "mask_input": True},
        {"points": [[[index * 10, 60] for index in range(20)]]},
    ],
    ids=["more than a batch", "single mask", "points and boxes", "mask prompt", "many points"],
)
def test_every_kind_of_prompt_gives_what_eager_gives(
    prompts: dict[str, object], predictor: Predictor, accelerated: Predictor
) -> None:
    encoding = predictor.encode(reference_frames()[0])
    if "mask_input" in prompts:
        side = 4 * predictor.config.grid_size
        prompts = prompts | {"mask_input": torch.zeros(1, 1, side, side)}
    expected = predictor.segment(encoding, **prompts)  # type: ignore[arg-type]
    got = accelerated.segment(encoding, **prompts)  # type: ignore[arg-type]
    torch.testing.assert_close(got.low_res_logits, expected.low_res_logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(got.iou, expected.iou, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        accelerated.region_features(encoding, got),
        predictor.region_features(encoding, expected),
        atol=1e-3,
        rtol=1e-3,
    )


def test_where_nothing_may_be_built_eager_serves_and_says_why(predictor: Predictor, tmp_path: Path) -> None:
    plain = accelerate(predictor, cache=EngineCache(tmp_path), policy=BuildPolicy.NEVER)
    assert all("eager" in line and "building is switched off" in line for line in plain.stages.origin)
    frame = reference_frames()[1]
    assert plain.describe(frame, BOXES) == predictor.describe(frame, BOXES)


def test_an_unknown_back_end_is_named_with_the_known_ones(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="openvino"):
        accelerate(predictor, "openvina", cache=EngineCache(tmp_path))
